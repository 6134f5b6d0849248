//go:build amd64

// Command helper is an IPAM plugin if its name is test-ipam, and the tracer's launcher otherwise. Unlike the test itself it
// is small, so that it can be started a thousand times.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/tracetest"
)

// leases is the tests' folder with a file per lease.
const leases = "/run/test-leases"

func main() {
	if filepath.Base(os.Args[0]) != "test-ipam" {
		fmt.Fprintln(os.Stderr, "helper:", tracetest.Launch())
		os.Exit(1)
	}
	if err := ipam(); err != nil {
		fmt.Printf(`{"cniVersion":"1.0.0","code":999,"msg":%q}`, err)
		os.Exit(1)
	}
}

// ipam answers one call. Its "ipam" section may say "addresses", "gateways" of them, "routes", "hang": "ADD", "fail": "DEL", and a file in "until" ends
// its hanging.
func ipam() error {
	var in struct {
		IPAM struct {
			Addresses []string        `json:"addresses"`
			Gateways  []string        `json:"gateways"`
			Routes    json.RawMessage `json:"routes"`
			Hang      string          `json:"hang"`
			Fail      string          `json:"fail"`
			Until     string          `json:"until"`
		} `json:"ipam"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	verb, lease := os.Getenv("CNI_COMMAND"), filepath.Join(leases, os.Getenv("CNI_CONTAINERID")+"-"+os.Getenv("CNI_IFNAME"))
	if in.IPAM.Fail == verb {
		return errors.New("told to fail")
	}
	switch verb {
	case "ADD":
		if err := os.WriteFile(lease, nil, 0o600); err != nil {
			return err
		}
	case "GC": // of everything
		all, err := filepath.Glob(leases + "/*")
		if err != nil {
			return err
		}
		for _, lease := range all { // not the folder: it may be killed before it could make it anew
			if err := os.Remove(lease); err != nil {
				return err
			}
		}
		return nil
	case "DEL":
		if err := os.Remove(lease); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for deadline := time.Now().Add(time.Minute); in.IPAM.Hang == verb; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(in.IPAM.Until); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	if verb != "ADD" {
		return nil
	}
	ips := make([]map[string]string, len(in.IPAM.Addresses))
	for i, a := range in.IPAM.Addresses {
		ips[i] = map[string]string{"address": a}
		if i < len(in.IPAM.Gateways) {
			ips[i]["gateway"] = in.IPAM.Gateways[i]
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "ips": ips, "routes": in.IPAM.Routes})
}
