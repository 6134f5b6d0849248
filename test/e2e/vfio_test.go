//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// TestDPDK runs the sample: in two pods, neither of them privileged, testpmd sends by one VF and receives by another. The
// receiver finds its VF in its environment, the sender in device-info; containerd gives both the nodes of vfio by CDI. It is the
// last test, so that the others have conf/ as it is (the first time, with -count): CDI and the pool stay, as a roll-out takes a minute.
func TestDPDK(t *testing.T) {
	vfs := giveToDPDK(t)
	applyCDI(t)
	eventually(t, "the node to offer VFs for DPDK", func(ctx context.Context) error {
		set, err := client.AppsV1().DaemonSets("viaduct").Get(ctx, "device-plugin", metav1.GetOptions{})
		if err != nil || !rolledOut(*set) {
			return errors.Join(err, errors.New("the device plugin without CDI is still there"))
		}
		n, err := offers(ctx, dpdkResource)
		if err == nil && n != len(vfs) {
			err = fmt.Errorf("it offers %d, want %d", n, len(vfs))
		}
		return errors.Join(err, pluginIsReady(ctx))
	})
	before := mustLook(t)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		err := poll(ctx, func(context.Context) error {
			now, err := look()
			if diff := cmp.Diff(before, now); err == nil && diff != "" {
				err = fmt.Errorf("it differs (-before +now):\n%s", diff)
			}
			if specs, globErr := filepath.Glob(cdiSpecs); len(specs) > 0 {
				err = errors.Join(err, globErr, fmt.Errorf("CDI specifications are left: %v", specs))
			}
			return err
		})
		if err != nil {
			t.Errorf("waiting for the node to be as it was before the pods: %v", err)
		}
	})
	applySample(t)
	rx, tx := pod{name: "dpdk-rx"}, pod{name: "dpdk-tx"}
	rx.running(t)
	tx.running(t)

	device := rx.status(t)[1].DeviceInfo
	if got, err := rx.exec(t.Context(), "sh", "-c", "echo $PCIDEVICE_INTEL_COM_DPDK"); err != nil || device == nil || got != device.PCI.Address {
		t.Errorf("the receiver's environment has the VF %q, %v; its device-info %v", got, err, device)
	}
	for _, p := range []pod{rx, tx} {
		const ipcLock = "0000000000004000" // bit 14 alone
		got, err := p.exec(t.Context(), "sed", "-n", `s/^CapEff:[[:space:]]*//p`, "/proc/1/status")
		if err != nil || got != ipcLock {
			t.Errorf("testpmd in %s has the capabilities %s, %v, want %s", p.name, got, err, ipcLock)
		}
	}
	now := mustLook(t).VFs
	for _, vf := range vfs {
		if e := now[vf].Entry; e.VLAN != 101 || !strings.HasPrefix(e.MAC, "02:00:00:00:65:0") || !e.SpoofCheck {
			t.Errorf("the PF's entry of VF %s: %+v", vf, e)
		}
	}
	hasCDI(t, vfs, rx, tx)
	t.Run("restricted with CDI", TestDaemonsAreRestricted)
	const enough = 1000
	received := 0
	eventually(t, "packets to come through", func(ctx context.Context) (err error) {
		received, err = rx.packets(ctx, "RX")
		if err == nil && received < enough {
			err = fmt.Errorf("%d came, want %d", received, enough)
		}
		return err
	})
	// The sender prints its count each second.
	eventually(t, "the sender to have sent what came", func(ctx context.Context) error {
		sent, err := tx.packets(ctx, "TX")
		t.Logf("sent %d, of which at least %d came", sent, received)
		if err == nil && sent < received {
			err = fmt.Errorf("it has sent %d, %d came", sent, received)
		}
		return err
	})
}

// applyCDI makes of what runs what conf/overlays/cdi is, with a pool for DPDK.
func applyCDI(t *testing.T) {
	t.Helper()
	setPools(t, mustRead(t, "testdata/dpdk.json"))
	patch, err := yaml.YAMLToJSON([]byte(mustRead(t, "../../conf/overlays/cdi/device-plugin.yaml")))
	if err == nil {
		_, err = client.AppsV1().DaemonSets("viaduct").Patch(t.Context(), "device-plugin", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// applySample makes what conf/samples/dpdk has, in the tests' namespace and with their image. It goes when the test ends.
func applySample(t *testing.T) {
	t.Helper()
	const folder = "../../conf/samples/dpdk"
	var network unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(mustRead(t, folder+"/network.yaml")), &network.Object); err != nil {
		t.Fatal(err)
	}
	mine := definitions.Namespace(namespace)
	if _, err := mine.Create(t.Context(), &network, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mine.Delete(context.WithoutCancel(t.Context()), network.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for text := range strings.SplitSeq(mustRead(t, folder+"/pods.yaml"), "\n---\n") {
		var made corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(text), &made); err != nil {
			t.Fatal(err)
		}
		made.Spec.Containers[0].Image = "localhost/testpmd:1"
		if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), &made, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pod{name: made.Name}.remove(context.WithoutCancel(t.Context()), t) })
	}
}

const cdiSpecs = "/var/run/cdi/viaduct_*"

// hasCDI has each pod find the nodes of vfio in its container, and a specification be there for each VF.
func hasCDI(t *testing.T, vfs []string, pods ...pod) {
	t.Helper()
	var want []string
	for _, vf := range vfs {
		want = append(want, "/var/run/cdi/viaduct_intel.com_dpdk-"+vf+".json")
	}
	found, err := filepath.Glob(cdiSpecs)
	if slices.Sort(want); err != nil || !slices.Equal(found, want) {
		t.Errorf("CDI specifications: %v, %v, want %v", found, err, want)
	}
	for _, p := range pods {
		got, err := p.exec(t.Context(), "sh", "-c", "for n in /dev/vfio/*; do test -c $n && basename $n; done")
		nodes := strings.Fields(got)
		if err != nil || len(nodes) != 2 || nodes[1] != "vfio" || !isGroup(vfs, nodes[0]) {
			t.Errorf("the container of %s has the nodes of vfio %q, %v; want vfio and its VF's IOMMU group", p.name, nodes, err)
		}
	}
}

// isGroup tells whether the IOMMU group is that of one of the VFs.
func isGroup(vfs []string, group string) bool {
	return slices.ContainsFunc(vfs, func(vf string) bool {
		path, err := os.Readlink(filepath.Join("/sys/bus/pci/devices", vf, "iommu_group"))
		return err == nil && filepath.Base(path) == group
	})
}

var counters = regexp.MustCompile(`(RX|TX)-packets: +(\d+)`)

// packets is what testpmd in the pod counted last, of RX or TX.
func (p pod) packets(ctx context.Context, direction string) (n int, err error) {
	log, err := client.CoreV1().Pods(namespace).GetLogs(p.name, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	if err != nil {
		return 0, err
	}
	err = fmt.Errorf("testpmd in pod %s counts nothing: %s", p.name, text)
	for _, m := range counters.FindAllStringSubmatch(string(text), -1) {
		if m[1] == direction {
			n, err = strconv.Atoi(m[2])
		}
	}
	return n, err
}

// giveToDPDK binds two free VFs of one PF to vfio-pci. When the test ends they are the node's again.
func giveToDPDK(t *testing.T) (vfs []string) {
	t.Helper()
	ofPF := map[string][]string{}
	for address, vf := range mustLook(t).VFs {
		if free := ofPF[vf.PF]; vf.Link != nil && len(vfs) == 0 {
			if ofPF[vf.PF] = append(free, address); len(ofPF[vf.PF]) == 2 {
				vfs = ofPF[vf.PF]
			}
		}
	}
	if len(vfs) == 0 {
		t.Fatal("no PF has two free VFs")
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		var errs []error
		for _, vf := range vfs {
			errs = append(errs, bind(vf, ""))
		}
		err := errors.Join(append(errs, poll(ctx, deployed))...)
		// The driver made a new interface for each VF, which has another MAC.
		if err := errors.Join(err, takeVFsForBaseline()); err != nil {
			t.Errorf("waiting for the node to offer all its VFs again: %v", err)
		}
	})
	for _, vf := range vfs {
		if err := bind(vf, "vfio-pci"); err != nil {
			t.Fatal(err)
		}
	}
	return vfs
}

// bind gives the VF to a driver; empty: to the one that takes it by itself.
func bind(vf, driver string) error {
	dir := filepath.Join("/sys/bus/pci/devices", vf)
	for _, write := range []struct{ path, value string }{
		{filepath.Join(dir, "driver_override"), driver + "\n"},
		{filepath.Join(dir, "driver/unbind"), vf},
		{"/sys/bus/pci/drivers_probe", vf},
	} {
		if err := os.WriteFile(write.path, []byte(write.value), 0o200); err != nil {
			return fmt.Errorf("bind %s to %q: %w", vf, driver, err)
		}
	}
	return nil
}
