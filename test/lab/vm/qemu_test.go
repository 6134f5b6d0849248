package vm

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/test/lab/internal/wire"
)

func TestNICArgs(t *testing.T) {
	tests := []struct {
		name string
		c    Config
		want []string
	}{
		{"none", Config{NUMANodes: 1}, nil},
		{"joined, round the nodes", Config{PFs: 3, NUMANodes: 2}, []string{
			"-device", "pcie-root-port,id=port1,chassis=1,slot=1,bus=numa0",
			"-netdev", "hubport,hubid=0,id=nic1",
			"-device", "igb,netdev=nic1,bus=port1,romfile=,mac=52:54:00:11:11:01",
			"-device", "pcie-root-port,id=port2,chassis=2,slot=2,bus=numa1",
			"-netdev", "hubport,hubid=0,id=nic2",
			"-device", "igb,netdev=nic2,bus=port2,romfile=,mac=52:54:00:11:11:02",
			"-device", "pcie-root-port,id=port3,chassis=3,slot=3,bus=numa0",
			"-netdev", "hubport,hubid=0,id=nic3",
			"-device", "igb,netdev=nic3,bus=port3,romfile=,mac=52:54:00:11:11:03",
		}},
		{"separate", Config{PFs: 2, NUMANodes: 1, Separate: true}, []string{
			"-device", "pcie-root-port,id=port1,chassis=1,slot=1,bus=numa0",
			"-netdev", "hubport,hubid=0,id=nic1",
			"-device", "igb,netdev=nic1,bus=port1,romfile=,mac=52:54:00:11:11:01",
			"-device", "pcie-root-port,id=port2,chassis=2,slot=2,bus=numa0",
			"-netdev", "hubport,hubid=1,id=nic2",
			"-device", "igb,netdev=nic2,bus=port2,romfile=,mac=52:54:00:11:11:02",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, nicArgs(tt.c)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNUMAArgs(t *testing.T) {
	got := numaArgs(Config{NUMANodes: 2, CPUs: 3, MemoryMiB: 1025})
	want := []string{
		"-object", "memory-backend-ram,id=mem0,size=513M",
		"-numa", "node,nodeid=0,cpus=0-0,memdev=mem0",
		"-device", "pxb-pcie,id=numa0,bus_nr=32,numa_node=0,bus=pcie.0",
		"-object", "memory-backend-ram,id=mem1,size=512M",
		"-numa", "node,nodeid=1,cpus=1-2,memdev=mem1",
		"-device", "pxb-pcie,id=numa1,bus_nr=64,numa_node=1,bus=pcie.0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	one := numaArgs(Config{NUMANodes: 2, CPUs: 1, MemoryMiB: 1024})
	if got, want := []string{one[3], one[9]}, []string{"node,nodeid=0,cpus=0-0,memdev=mem0", "node,nodeid=1,memdev=mem1"}; !slices.Equal(got, want) {
		t.Errorf("one CPU for two nodes: %q, want %q", got, want)
	}
}

func TestHostArgs(t *testing.T) {
	got := hostArgs(machine{
		portFD: 3, disk: "/p/a,b/disk.img",
		shares: []hostShare{{wire.Share{Tag: "artefacts", Guest: "/artefacts"}, "/out,1"}},
	})
	for _, want := range []string{
		"socket,id=lab,fd=3",
		"local,id=artefacts,path=/out,,1,security_model=none,multidevs=remap",
		"virtio-9p-pci,fsdev=artefacts,mount_tag=artefacts,bus=pcie.0",
		"if=none,id=persist,format=raw,discard=unmap,file=/p/a,,b/disk.img",
		"local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if slices.ContainsFunc(hostArgs(machine{}), func(a string) bool { return strings.Contains(a, "virtio-blk") }) {
		t.Error("a machine without /persist has a disk")
	}
}

func TestUplink(t *testing.T) {
	c := Config{NUMANodes: 1, CPUs: 1, MemoryMiB: 512, Uplink: true, HostForwards: []string{"tcp:127.0.0.1:1-10.0.2.15:2", "udp:127.0.0.1:3-10.0.2.15:4"}}
	want := "user,id=uplink,hostfwd=tcp:127.0.0.1:1-10.0.2.15:2,hostfwd=udp:127.0.0.1:3-10.0.2.15:4"
	if got := qemuArgs(c, machine{accel: tcg}); !slices.Contains(got, want) {
		t.Errorf("no %q in %q", want, got)
	}
	c.Uplink, c.HostForwards = false, nil
	if got := qemuArgs(c, machine{accel: tcg}); slices.ContainsFunc(got, func(a string) bool { return strings.Contains(a, "uplink") }) {
		t.Errorf("an uplink nobody asked for in %q", got)
	}
}

func TestConfigCheck(t *testing.T) {
	tests := []struct {
		name, want string
		c          Config
	}{
		{"zero value", "", Config{}},
		{"no NIC", "", Config{PFs: -1}},
		{"too many VFs", "8 VFs per PF", Config{VFs: 8}},
		{"VFs of nothing", "no PF", Config{PFs: -1, VFs: 1}},
		{"too many nodes", "8 NUMA nodes", Config{NUMANodes: 8}},
		{"too many PFs", "17 PFs", Config{PFs: 17, NUMANodes: 1}},
		{"little memory", "100 MiB", Config{MemoryMiB: 100}},
		{"forwards to nowhere", "need Uplink", Config{HostForwards: []string{"x"}}},
		{"a folder the guest hides", "the guest cannot see /run/x", Config{Dir: "/run/x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.c.withDefaults()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("unexpected: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v does not say %q", err, tt.want)
			}
		})
	}
}
