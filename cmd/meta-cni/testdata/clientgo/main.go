// Command clientgo makes a Kubernetes client from a kubeconfig and ends: what a CNI plugin that talks to the API server by
// itself pays before it has asked anything.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "clientgo:", err)
		os.Exit(1)
	}
}

func run() error {
	var conf struct {
		Kubeconfig string `json:"kubeconfig"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", conf.Kubeconfig)
	if err != nil {
		return err
	}
	_, err = kubernetes.NewForConfig(config)
	return err
}
