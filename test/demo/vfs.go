package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

const netClass = "/sys/class/net"

// A pf is a NIC that can have VFs.
type pf struct {
	name   string // netdev
	bdf    string
	driver string
	total  int // VFs that it can have
	num    int // VFs that it has
}

// findPFs lists the node's PFs by name.
func findPFs() ([]pf, error) {
	paths, err := filepath.Glob(netClass + "/*/device/sriov_totalvfs")
	if err != nil {
		return nil, err
	}
	var pfs []pf
	for _, p := range paths {
		device := filepath.Dir(p)
		f := pf{name: filepath.Base(filepath.Dir(device)), bdf: linkBase(device), driver: linkBase(device + "/driver")}
		if f.total, err = readInt(p); err != nil {
			return nil, err
		}
		if f.num, err = readInt(device + "/sriov_numvfs"); err != nil {
			return nil, err
		}
		pfs = append(pfs, f)
	}
	return pfs, nil
}

// A vfState is all of a VF that must be as before when its pod has gone: its entry at the PF and its netdev.
type vfState struct {
	BDF    string
	PF     string
	Index  int
	Entry  map[string]any // as `ip -d link show PF` has it, without the counters
	Netdev map[string]any // as `ip -d link show VF` has it: what the pod or its network can change
}

// netdevKeys are the keys of `ip -j -d link` that a pod's use of a VF can change for good. Not among them: what the kernel
// counts, and the interface index, which names nothing that lasts.
var netdevKeys = []string{
	"ifname", "ifalias", "altnames", "address", "mtu", "group", "txqlen", "promiscuity", "allmulti", "inet6_addr_gen_mode",
	"gso_max_size", "gso_max_segs", "master",
}

// snapshot reads all VFs of the PFs, by PCI address.
func snapshot(ctx context.Context, pfs []pf) (map[string]vfState, error) {
	all := map[string]vfState{}
	for _, f := range pfs {
		var links []struct {
			VFs []map[string]any `json:"vfinfo_list"`
		}
		if err := readJSON(ctx, &links, "ip", "-j", "-d", "link", "show", "dev", f.name); err != nil {
			return nil, err
		}
		entries := links[0].VFs
		for index := range f.num {
			bdf := linkBase(fmt.Sprintf("%s/%s/device/virtfn%d", netClass, f.name, index))
			if bdf == "" || index >= len(entries) {
				return nil, fmt.Errorf("VF %d of %s is missing: %d entries", index, f.name, len(entries))
			}
			delete(entries[index], "stats")
			netdev, err := readNetdev(ctx, bdf)
			if err != nil {
				return nil, err
			}
			all[bdf] = vfState{BDF: bdf, PF: f.name, Index: index, Entry: entries[index], Netdev: netdev}
		}
	}
	return all, nil
}

// readNetdev reads the settings of a VF's netdev; nil if it is not on the host.
func readNetdev(ctx context.Context, bdf string) (map[string]any, error) {
	names, err := filepath.Glob("/sys/bus/pci/devices/" + bdf + "/net/*")
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var links []map[string]any
	if err := readJSON(ctx, &links, "ip", "-j", "-d", "link", "show", "dev", filepath.Base(names[0])); err != nil {
		return nil, err
	}
	maps.DeleteFunc(links[0], func(key string, _ any) bool { return !slices.Contains(netdevKeys, key) })
	return links[0], nil
}

// differences says, a line each, in what two snapshots differ.
func differences(before, after map[string]vfState) []string {
	var lines []string
	for _, bdf := range slices.Sorted(maps.Keys(before)) {
		b, a := before[bdf], after[bdf]
		lines = append(lines, diffKeys(fmt.Sprintf("%s, VF %d's entry at %s", bdf, b.Index, b.PF), b.Entry, a.Entry)...)
		lines = append(lines, diffKeys(bdf+", its netdev", b.Netdev, a.Netdev)...)
	}
	for _, bdf := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[bdf]; !ok {
			lines = append(lines, bdf+" was not there before")
		}
	}
	return lines
}

func diffKeys(what string, before, after map[string]any) []string {
	keys := maps.Clone(before)
	if keys == nil {
		keys = map[string]any{}
	}
	maps.Copy(keys, after)
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !reflect.DeepEqual(before[key], after[key]) {
			lines = append(lines, fmt.Sprintf("%s: %s was %s, is %s", what, key, compact(before[key]), compact(after[key])))
		}
	}
	return lines
}

func compact(v any) string {
	if v == nil {
		return "absent"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// A vfEntry is what a VF's entry at its PF says, in the terms that a network definition uses.
type vfEntry struct {
	mac      string
	vlan     int
	spoofchk bool
}

// entry reads a VF's entry as iproute2 prints it, which spells a MAC address "address" and has a list of VLANs.
func (s vfState) entry() vfEntry {
	var e struct {
		Address  string
		MAC      string
		VLAN     int
		VLANs    []struct{ VLAN int } `json:"vlan_list"`
		Spoofchk bool
	}
	b, err := json.Marshal(s.Entry)
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		return vfEntry{}
	}
	for _, v := range e.VLANs {
		e.VLAN = v.VLAN
	}
	return vfEntry{mac: strings.ToLower(e.Address + e.MAC), vlan: e.VLAN, spoofchk: e.Spoofchk}
}

// linkBase is the last part of where a symbolic link points, "" if there is none.
func linkBase(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
