package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What conf/samples asks for.
const (
	resource = "intel.com/sriov"
	vlan     = 100
	network  = "vlan100"
)

// podMACs are the MAC addresses that the sample pods ask for.
var podMACs = map[string]string{"pod-a": "02:00:00:00:64:0a", "pod-b": "02:00:00:00:64:0b"}

// How long things may take. Under emulation on a busy machine everything is slow; nothing here waits longer than it must.
const (
	slow = 5 * time.Minute
	long = 3 * time.Minute
)

func (d *demo) steps(ctx context.Context, vfs int) error {
	pfs, err := d.makeVFs(ctx, vfs)
	if err != nil {
		return err
	}
	if err := d.deploy(ctx); err != nil {
		return err
	}
	if err := d.allocatable(ctx, pfs); err != nil {
		return err
	}
	before, err := snapshot(ctx, pfs)
	if err != nil {
		return fmt.Errorf("look at the VFs before: %w", err)
	}
	if err := d.createPods(ctx); err != nil {
		return err
	}
	addresses, err := d.networkStatus(ctx)
	if err != nil {
		return err
	}
	if err := d.insidePod(ctx, addresses); err != nil {
		return err
	}
	if err := d.pfSide(ctx, pfs); err != nil {
		return err
	}
	if err := d.ping(ctx, addresses); err != nil {
		return err
	}
	return d.deletePods(ctx, pfs, before)
}

// makeVFs does what an administrator does once on a real node: VFs are made by the kernel, on request.
func (d *demo) makeVFs(ctx context.Context, vfs int) ([]pf, error) {
	d.heading("A node with SR-IOV NICs")
	if err := d.waitForNode(ctx); err != nil {
		return nil, err
	}
	if _, err := d.run(ctx, "kubectl", "get", "nodes", "-o", "wide"); err != nil {
		return nil, err
	}
	pfs, err := findPFs()
	if err != nil {
		return nil, err
	}
	if len(pfs) == 0 {
		return nil, errors.New("this node has no SR-IOV NIC: no /sys/class/net/*/device/sriov_totalvfs")
	}
	for i, f := range pfs {
		d.say("%s: %s, driver %s, %d VFs of %d", f.name, f.bdf, f.driver, f.num, f.total)
		// The PF first: a VF whose driver starts while the PF is not there to answer may stay without carrier.
		if err := d.bringUp(ctx, f.name); err != nil {
			return nil, err
		}
		if f.num == 0 {
			pfs[i].num = min(vfs, f.total)
			path := netClass + "/" + f.name + "/device/sriov_numvfs"
			fmt.Fprintf(d.out, "$ echo %d > %s\n", pfs[i].num, path)
			if err := writeSysfs(path, strconv.Itoa(pfs[i].num)); err != nil {
				return nil, err
			}
		}
	}
	return pfs, d.wait(ctx, long, "each VF has its driver and netdev", func(ctx context.Context) (bool, string, error) {
		all, err := snapshot(ctx, pfs)
		if err != nil {
			return false, "", err
		}
		ready := 0
		for _, s := range all {
			if s.Netdev != nil {
				ready++
			}
		}
		return ready == len(all), fmt.Sprintf("%d of %d", ready, len(all)), nil
	})
}

func (d *demo) bringUp(ctx context.Context, name string) error {
	if _, err := d.run(ctx, "ip", "link", "set", "dev", name, "up"); err != nil {
		return err
	}
	return d.wait(ctx, long, name+" has carrier", func(context.Context) (bool, string, error) {
		carrier, err := readInt(netClass + "/" + name + "/carrier")
		return carrier == 1, "", err
	})
}

func (d *demo) waitForNode(ctx context.Context) error {
	return d.wait(ctx, slow, "the node is Ready", func(ctx context.Context) (bool, string, error) {
		status, err := read(ctx, "kubectl", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		return status == "True", "Ready: " + status, err
	})
}

func (d *demo) deploy(ctx context.Context) error {
	d.heading("Viaduct goes onto the cluster")
	if _, err := d.run(ctx, "kubectl", "apply", "-k", "conf/"); err != nil {
		return err
	}
	return d.wait(ctx, slow, "both DaemonSets are ready", func(ctx context.Context) (bool, string, error) {
		status, err := read(ctx, "kubectl", "-n", "viaduct", "get", "daemonsets", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.numberReady}/{.status.desiredNumberScheduled}  {end}`)
		return strings.TrimSpace(status) == "device-plugin 1/1  meta-agent 1/1", status, err
	})
}

func (d *demo) allocatable(ctx context.Context, pfs []pf) error {
	d.heading("The node offers its VFs")
	want := 0
	for _, f := range pfs {
		want += f.num
	}
	err := d.wait(ctx, long, fmt.Sprintf("the node's allocatable %s is %d", resource, want), func(ctx context.Context) (bool, string, error) {
		n, err := allocatable(ctx)
		return n == want, fmt.Sprintf("%d of %d", n, want), err
	})
	if err != nil {
		return err
	}
	_, err = d.run(ctx, "kubectl", "get", "nodes", "-o", `custom-columns=NODE:.metadata.name,SRIOV:.status.allocatable.intel\.com/sriov`)
	return err
}

func allocatable(ctx context.Context) (int, error) {
	var nodes struct {
		Items []struct {
			Status struct {
				Allocatable map[string]string
			}
		}
	}
	if err := readJSON(ctx, &nodes, "kubectl", "get", "nodes", "-o", "json"); err != nil {
		return 0, err
	}
	n := 0
	for _, node := range nodes.Items {
		if value := node.Status.Allocatable[resource]; value != "" {
			k, err := strconv.Atoi(value)
			if err != nil {
				return 0, fmt.Errorf("allocatable %s: %w", resource, err)
			}
			n += k
		}
	}
	return n, nil
}

func (d *demo) createPods(ctx context.Context) error {
	d.heading("Two pods ask for a VF each, on VLAN %d", vlan)
	if _, err := d.run(ctx, "kubectl", "create", "namespace", "demo"); err != nil {
		return err
	}
	err := d.wait(ctx, long, "the namespace has its service account", func(ctx context.Context) (bool, string, error) {
		name, err := read(ctx, "kubectl", "-n", "demo", "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
		return name != "", name, err
	})
	if err != nil {
		return err
	}
	if _, err := d.run(ctx, "cat", "conf/samples/network.yaml"); err != nil {
		return err
	}
	if _, err := d.run(ctx, "kubectl", "apply", "-k", "test/demo/pods"); err != nil {
		return err
	}
	err = d.wait(ctx, slow, "both pods are ready", podsReady)
	if err != nil {
		return err
	}
	_, err = d.run(ctx, "kubectl", "-n", "demo", "get", "pods", "-o", "wide")
	return err
}

// podsReady reports whether the demo's pods are ready, and what each is at.
func podsReady(ctx context.Context) (done bool, state string, err error) {
	var pods struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				ContainerStatuses []struct {
					Ready bool
					State struct{ Waiting struct{ Reason string } }
				}
			}
		}
	}
	if err := readJSON(ctx, &pods, "kubectl", "-n", "demo", "get", "pods", "-o", "json"); err != nil {
		return false, "", err
	}
	ready, states := 0, []string{}
	for _, p := range pods.Items {
		words := []string{p.Metadata.Name, p.Status.Phase}
		for _, c := range p.Status.ContainerStatuses {
			if c.Ready {
				ready++
			} else {
				words = append(words, c.State.Waiting.Reason)
			}
		}
		states = append(states, strings.Join(words, " "))
	}
	return ready == len(podMACs), strings.Join(states, ", "), nil
}

// networkStatus shows the annotation, checks it, and returns each pod's address on the VLAN.
func (d *demo) networkStatus(ctx context.Context) (map[string]string, error) {
	d.heading("What the pods were given, in their annotations")
	addresses := map[string]string{}
	for _, pod := range []string{"pod-a", "pod-b"} {
		const path = `jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}{"\n"}`
		out, err := d.run(ctx, "kubectl", "-n", "demo", "get", "pod", pod, "-o", path)
		if err != nil {
			return nil, err
		}
		var status []struct {
			Name, Interface, MAC string
			IPs                  []string
			DeviceInfo           struct {
				PCI struct {
					Address string `json:"pci-address"`
				}
			} `json:"device-info"`
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return nil, fmt.Errorf("read the network-status of %s: %w", pod, err)
		}
		for _, s := range status {
			if s.Name == "demo/"+network && len(s.IPs) > 0 && strings.EqualFold(s.MAC, podMACs[pod]) && s.DeviceInfo.PCI.Address != "" {
				addresses[pod] = s.IPs[0]
				d.say("✓ %s has %s with %s, %s, on VF %s", pod, s.Interface, s.IPs[0], s.MAC, s.DeviceInfo.PCI.Address)
			}
		}
		if addresses[pod] == "" {
			return nil, fmt.Errorf("the network-status of %s lacks %s with an address, the MAC %s and its VF", pod, network, podMACs[pod])
		}
	}
	return addresses, nil
}

func (d *demo) insidePod(ctx context.Context, addresses map[string]string) error {
	d.heading("Inside a pod: eth0 of the default network, and the VF as net1")
	err := d.wait(ctx, long, "the kubelet runs commands in it", func(ctx context.Context) (bool, string, error) {
		_, err := read(ctx, "kubectl", "-n", "demo", "exec", "pod-a", "--", "true")
		return err == nil, "", err
	})
	if err != nil {
		return err
	}
	out, err := d.run(ctx, "kubectl", "-n", "demo", "exec", "pod-a", "--", "ip", "addr")
	if err != nil {
		return err
	}
	for _, want := range []string{"eth0", "net1", podMACs["pod-a"], "inet " + addresses["pod-a"] + "/"} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("pod-a's links lack %q", want)
		}
	}
	d.say("✓ eth0 and net1, the MAC that was asked for, the address that IPAM gave")
	return nil
}

// pfSide shows what the NIC enforces, whatever the pod does: its VFs' MAC addresses, VLAN and spoof check.
func (d *demo) pfSide(ctx context.Context, pfs []pf) error {
	d.heading("On the node: the VFs' entries at their PF")
	states, err := snapshot(ctx, pfs)
	if err != nil {
		return err
	}
	found := map[string]vfState{}
	for _, s := range states {
		e := s.entry()
		for pod, mac := range podMACs {
			if e.mac == mac && e.vlan == vlan && e.spoofchk {
				found[pod] = s
			}
		}
	}
	for _, f := range pfs {
		if _, err := d.run(ctx, "ip", "link", "show", "dev", f.name); err != nil {
			return err
		}
	}
	for _, pod := range []string{"pod-a", "pod-b"} {
		s, ok := found[pod]
		if !ok {
			return fmt.Errorf("no VF has the MAC %s of %s with VLAN %d and the spoof check on", podMACs[pod], pod, vlan)
		}
		if s.Netdev != nil {
			return fmt.Errorf("VF %s of %s still has its netdev on the host", s.BDF, pod)
		}
		d.say("✓ %s: VF %d of %s, %s, VLAN %d, spoof check on; its netdev is in the pod", pod, s.Index, s.PF, podMACs[pod], vlan)
	}
	return nil
}

func (d *demo) ping(ctx context.Context, addresses map[string]string) error {
	d.heading("Pod to pod over the VFs")
	ping := []string{"kubectl", "-n", "demo", "exec", "pod-a", "--", "ping", "-I", "net1", "-W", "1", "-c"}
	err := d.wait(ctx, long, "the first frame comes through (an emulated NIC has its carrier late)", func(ctx context.Context) (bool, string, error) {
		_, err := read(ctx, append(slices.Clone(ping), "1", addresses["pod-b"])...)
		return err == nil, "", err // ping fails until there is carrier
	})
	if err != nil {
		return err
	}
	_, err = d.run(ctx, append(slices.Clone(ping), "3", addresses["pod-b"])...)
	return err
}

func (d *demo) deletePods(ctx context.Context, pfs []pf, before map[string]vfState) error {
	d.heading("The pods go, and the VFs are back as before")
	if _, err := d.run(ctx, "kubectl", "-n", "demo", "delete", "pods", "--all", "--timeout=3m"); err != nil {
		return err
	}
	var left []string
	// The kubelet lets the API server forget a pod when its sandbox is stopped, which is after DEL. It need not poll long.
	err := d.wait(ctx, time.Minute, "each VF's entry, name, MAC, MTU and all else are as before the pods", func(ctx context.Context) (bool, string, error) {
		after, err := snapshot(ctx, pfs)
		if err != nil {
			return false, "", err
		}
		left = differences(before, after)
		return len(left) == 0, fmt.Sprintf("%d differences on %d VFs", len(left), len(after)), nil
	})
	for _, line := range left {
		d.say("✗ %s", line)
	}
	if err != nil {
		return err
	}
	for _, f := range pfs {
		if _, err := d.run(ctx, "ip", "link", "show", "dev", f.name); err != nil {
			return err
		}
	}
	want := len(before)
	return d.wait(ctx, long, "the node offers them all", func(ctx context.Context) (bool, string, error) {
		n, err := allocatable(ctx)
		return n == want, fmt.Sprintf("%d of %d", n, want), err
	})
}
