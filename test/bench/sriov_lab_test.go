//go:build lab

package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

var (
	binaries = flag.String("sriov-binary", "../../bin/sriov-cni", "the CNI plugins to measure in the same pairs, separated by commas")
	pairs    = flag.Int("pairs", 30, "how many pairs of floor and plugin")
)

const podPath = "/run/netns/bench"

// The attachment of both sides: VLAN, MAC, spoof check and trust, no addresses.
const vlan = 100

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 0x42}

// BenchmarkAttach runs ADD and DEL of the plugin beside the same by direct netlink calls, and beside the least that the kernel can
// be asked for: see direct and floor. Each of the plugin's times is less that of its own VERSION, which is what it takes to start
// any program of its size here. The runs are interleaved and compared one by one, since a busy machine slows all; what is reported
// are the medians of the ratios.
func BenchmarkAttach(b *testing.B) {
	s := newSetup(b)
	for _, p := range s.plugins {
		s.run(b, p) // the first of everything: caches, the record's folder
	}
	for b.Loop() {
		results := make([]result, len(s.plugins))
		for range *pairs {
			for i, p := range s.plugins {
				add, del, start := s.run(b, p)
				results[i].add.add(add, start)
				results[i].del.add(del, start)
				results[i].starts = append(results[i].starts, start)
			}
		}
		for i, r := range results {
			r.report(b, s.plugins[i])
		}
		b.ReportMetric(median(results[0].add.toDirect), "ADD/direct")
		b.ReportMetric(median(results[0].del.toDirect), "DEL/direct")
		b.ReportMetric(median(results[0].add.toFloor), "ADD/floor")
		b.ReportMetric(median(results[0].del.toFloor), "DEL/floor")
		b.ReportMetric(float64(s.plugins[0].peak)/1024, "MiB-peak")
		b.ReportMetric(s.plugins[0].size, "MiB-binary")
	}
}

// A program is a CNI plugin that is measured.
type program struct {
	path string
	size float64 // MiB
	peak int64   // KiB, the largest resident set of any run
}

// times are milliseconds: of the floor, of direct calls, of the plugin.
type times struct{ floor, direct, plugin float64 }

// A series is what came of many runs of one verb: milliseconds, and ratios.
type series struct{ floor, direct, toFloor, toDirect []float64 }

func (s *series) add(t times, start float64) {
	s.floor, s.direct = append(s.floor, t.floor), append(s.direct, t.direct)
	s.toFloor, s.toDirect = append(s.toFloor, (t.plugin-start)/t.floor), append(s.toDirect, (t.plugin-start)/t.direct)
}

// A result is what came of a plugin's runs.
type result struct {
	add, del series
	starts   []float64 // milliseconds
}

func (r *result) report(b *testing.B, p *program) {
	b.Helper()
	fmt.Printf("\n%s less its VERSION (%.1f ms), %d runs\n", p.path, median(r.starts), *pairs)
	line := func(verb, of string, base, ratio []float64) {
		fmt.Printf("%s    %-16s %6.1f ms    %4.2f × (quartiles %4.2f…%4.2f)\n", verb, of, median(base), median(ratio), quantile(ratio, 0.25), quantile(ratio, 0.75))
	}
	line("ADD", "direct calls", r.add.direct, r.add.toDirect)
	line("ADD", "the floor", r.add.floor, r.add.toFloor)
	line("DEL", "direct calls", r.del.direct, r.del.toDirect)
	line("DEL", "the floor", r.del.floor, r.del.toFloor)
	fmt.Printf("peak memory %8.1f MiB\nbinary %13.1f MiB\n\n", float64(p.peak)/1024, p.size)
}

type setup struct {
	plugins []*program
	vf      *pci.Device
	pf      vf.PF
	floor   *floor
	direct  *direct
}

func newSetup(b *testing.B) *setup {
	b.Helper()
	s := &setup{}
	for path := range strings.SplitSeq(*binaries, ",") {
		info, err := os.Stat(path)
		if err != nil {
			b.Fatalf("%v: make build makes it", err)
		}
		s.plugins = append(s.plugins, &program{path: path, size: float64(info.Size()) / (1 << 20)})
	}
	command(b, "modprobe", "-a", "igb", "igbvf")
	s.findVF(b)
	command(b, "ip", "netns", "add", "bench")
	b.Cleanup(func() { command(b, "ip", "netns", "del", "bench") })
	s.floor, s.direct = newFloor(b, s.pf, s.vf), newDirect(b, s.pf, s.vf)
	return s
}

// findVF makes one VF on the first PF, and waits for its interface.
func (s *setup) findVF(b *testing.B) {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := s.tryVF(b)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}

func (s *setup) tryVF(b *testing.B) error {
	b.Helper()
	addresses, err := pci.Addresses("/")
	if err != nil {
		return err
	}
	for _, a := range addresses {
		pf, err := pci.Read("/", a)
		if err != nil {
			return err
		}
		uplink, ok := pf.Uplink()
		if !ok || !pf.IsPF() {
			continue
		}
		if len(pf.VFs) == 0 {
			command(b, "ip", "link", "set", uplink.Name, "up")
			if err := os.WriteFile(filepath.Join("/sys/bus/pci/devices", a.String(), "sriov_numvfs"), []byte("1"), 0); err != nil {
				return err
			}
			return errors.New("the VF was only just made")
		}
		if s.vf, err = pci.Read("/", pf.VFs[0]); err != nil {
			return err
		}
		if len(s.vf.Netdevs) == 0 {
			return errors.New("the VF has no interface")
		}
		s.pf = vf.PF{Address: a.String(), Index: uplink.Index}
		return nil
	}
	return errors.New("no PF")
}

func command(b *testing.B, argv ...string) {
	b.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		b.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// run has the same done once by the floor, by direct calls and by a plugin.
func (s *setup) run(b *testing.B, p *program) (add, del times, start float64) {
	b.Helper()
	add.floor = clock(b, s.floor.add)
	del.floor = clock(b, s.floor.del)
	add.direct = clock(b, s.direct.add)
	del.direct = clock(b, s.direct.del)
	start = clock(b, func() error { return s.call(p, "VERSION") })
	add.plugin = clock(b, func() error { return s.call(p, "ADD") })
	del.plugin = clock(b, func() error { return s.call(p, "DEL") })
	return add, del, start
}

func clock(b *testing.B, f func() error) float64 {
	b.Helper()
	start := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return float64(time.Since(start).Microseconds()) / 1000
}

func (s *setup) call(p *program, verb string) error {
	stdin, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "bench", "type": "sriov", "deviceID": s.vf.Address.String(),
		"vlan": vlan, "mac": mac.String(), "spoofchk": "on", "trust": "on",
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.Command(p.path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID=bench", "CNI_NETNS="+podPath, "CNI_IFNAME=net1", "CNI_PATH=/nowhere")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(stdin), &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", verb, err, out.Bytes())
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		p.peak = max(p.peak, usage.Maxrss)
	}
	return nil
}

func median(v []float64) float64 { return quantile(v, 0.5) }

func quantile(v []float64, q float64) float64 {
	sorted := slices.Clone(v)
	slices.SortFunc(sorted, cmp.Compare)
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
