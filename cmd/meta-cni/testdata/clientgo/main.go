// Command clientgo makes a Kubernetes client and ends: what a CNI plugin that talks to the API server by itself pays
// before it has asked anything.
package main

import (
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	if _, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"}); err != nil {
		os.Exit(1)
	}
}
