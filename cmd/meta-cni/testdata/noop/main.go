// Command noop is a CNI plugin that does nothing, for benchmarks: what it takes is what any plugin takes. If its
// configuration has a key "peak", it notes there how much memory its caller has used at most.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

func main() {
	var conf struct {
		CNIVersion string `json:"cniVersion"`
		Peak       string `json:"peak"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		fmt.Println(`{"code":6,"msg":"configuration"}`)
		os.Exit(1)
	}
	if conf.Peak != "" {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", os.Getppid()))
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "VmHWM:") {
				_ = os.WriteFile(conf.Peak, []byte(strings.Fields(line)[1]), 0o600)
			}
		}
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Printf(`{"cniVersion":%q,"interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"192.0.2.7/24"}]}`, conf.CNIVersion)
	}
}
