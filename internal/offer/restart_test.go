package offer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/viaduct-sriov/viaduct/internal/plugin/kubelettest"
)

// fewVFs has no device until a VF is bound to vfio-pci.
const fewVFs = `{"resourceName": "sriov", "selectors": {"drivers": ["vfio-pci"]}}`

// afterSomeRounds waits until the kubelet was asked so often that anything that is to happen has.
func (n *node) afterSomeRounds() {
	n.t.Helper()
	before := n.kubelet.Count("asked")
	kubelettest.Eventually(n.t, "the kubelet is asked", func() bool { return n.kubelet.Count("asked") > before+8 })
}

// A new process with a new configuration must not offer what pods have before it knows what that is.
func TestRestartWaitsForWhatPodsHave(t *testing.T) {
	n := prepareNode(t, pools(other, fewVFs))
	n.kubelet.Give(vf0, resource)
	n.kubelet.Knows(kubelettest.NoPodsYet)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.afterSomeRounds()
	if text := n.get("/readyz", 503); !strings.Contains(text, "waiting for the kubelet to say which devices pods have") {
		t.Errorf("/readyz: %q", text)
	}
	n.sees("intel.com/other", "-")

	n.kubelet.Knows(kubelettest.AllPods)
	n.sees("intel.com/other", vf1)
	n.sees(resource, vf0)
}

// A pod that gets a VF before the meta CNI is there would run with the default network alone. Once it was there, VFs stay offered.
func TestWaitsForTheMetaCNI(t *testing.T) {
	n := prepareNode(t, pools(all))
	n.after = filepath.Join(n.config, "00-viaduct.conflist")
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.afterSomeRounds()
	if text := n.get("/readyz", 503); !strings.Contains(text, "waiting for "+n.after) {
		t.Errorf("/readyz: %q", text)
	}
	n.sees(resource, "-")

	n.write("00-viaduct.conflist", "{}")
	n.sees(resource, vf0+" "+vf1)
	if err := os.Remove(n.after); err != nil {
		t.Fatal(err)
	}
	n.afterSomeRounds()
	n.sees(resource, vf0+" "+vf1)
}

// A kubelet that just started may list our own pod before others: what it says first has to be said twice.
func TestRestartOfBothWaitsForAllPods(t *testing.T) {
	n := prepareNode(t, pools(other, fewVFs))
	n.settle = time.Hour // the kubelet is young
	n.kubelet.Give(vf0, resource)
	n.kubelet.Knows(kubelettest.OwnPodFirst)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.sees("intel.com/other", vf1)
	n.sees(resource, vf0)
	if log := n.log.String(); strings.Contains(log, "resource=intel.com/other devices=2") {
		t.Errorf("a pod's device was offered as another resource:\n%s", log)
	}
}

// Where the kubelet runs but says nothing for too long, devices are offered all the same.
func TestKubeletThatDoesNotTell(t *testing.T) {
	n := prepareNode(t, pools(all))
	n.patience = 50 * time.Millisecond
	n.kubelet.Knows(kubelettest.PodsNotTold)
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.sees(resource, vf0+" "+vf1)
	if !strings.Contains(n.log.String(), "the kubelet does not say which devices pods have") {
		t.Errorf("no warning; log:\n%s", n.log)
	}
}

// A kubelet that is not there is waited for: it may say all when it comes.
func TestKubeletComesLate(t *testing.T) {
	n := prepareNode(t, pools(other, fewVFs))
	n.patience = time.Nanosecond
	n.kubelet.Give(vf0, resource)
	n.start()
	kubelettest.Eventually(t, "it asked some times", func() bool { return strings.Count(n.log.String(), "not known anew") > 5 })
	if s := n.offer.Status(); s.Offering {
		t.Error("it did not wait for the kubelet")
	}
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.sees("intel.com/other", vf1)
	n.sees(resource, vf0)
}

// After its start the kubelet says for a while that no pod has anything.
func TestKubeletRestartFreesNothing(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.kubelet.Give(vf0, resource)
	n.afterSomeRounds()
	n.kubelet.Stop()
	n.kubelet.Knows(kubelettest.NoPodsYet)
	n.configure(pools(other, fewVFs))
	n.kubelet.Start()
	n.afterSomeRounds()
	n.sees("intel.com/other", vf1)
	n.sees(resource, vf0)
	n.kubelet.Knows(kubelettest.AllPods)
	n.afterSomeRounds()
	n.sees(resource, vf0)
	n.kubelet.Give(vf0, "")
	n.sees("intel.com/other", vf0+" "+vf1)
}

// What a pod has is not forgotten, though it went while nobody looked.
func TestGoneWhileDown(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.kubelet.Give(vf0, resource)
	n.stop()
	n.tree.RemoveVFs("0000:02:00.0")
	n.start()
	n.sees(resource, vf0+"!")
	n.kubelet.Give(vf0, "")
	n.afterSomeRounds()
	n.sees(resource, vf0+"!") // for the time of grace
}

func TestRestartLosesNothing(t *testing.T) {
	n := newNode(t, pools(all))
	n.sees(resource, vf0+" "+vf1)
	n.kubelet.Give(vf0, resource)
	n.stop()
	n.sees(resource, "-")
	n.start()
	n.sees(resource, vf0+" "+vf1)
	n.kubelet.Stop()
	n.stop()
	n.start()
	n.kubelet.Start()
	n.sees(resource, vf0+" "+vf1)
}

// allocate does what the kubelet does for a container.
func (n *node) allocate(resource, id string) *deviceplugin.ContainerAllocateResponse {
	n.t.Helper()
	conn, err := kubelettest.Dial(filepath.Join(n.kubelet.Registry(), strings.ReplaceAll(resource, "/", "_")+".sock"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	response, err := deviceplugin.NewDevicePluginClient(conn).Allocate(n.t.Context(), &deviceplugin.AllocateRequest{
		ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: []string{id}}},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return response.GetContainerResponses()[0]
}

// deviceFiles are the devices' files that there are.
func (n *node) deviceFiles() []string {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.files, "*", "*.json"))
	if err != nil {
		n.t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(n.files, "*", "dp", "*.json"))
	if err != nil {
		n.t.Fatal(err)
	}
	names := []string{}
	for _, f := range append(files, more...) {
		names = append(names, filepath.Base(f))
	}
	return names
}

// A device's files are there as long as a pod has it, whoever restarts, and go when it is free.
func TestDeviceFiles(t *testing.T) {
	n := prepareNode(t, pools(fewVFs))
	for _, vf := range []string{vf0, vf1} {
		n.tree.Bind(vf, "vfio-pci")
	}
	n.tree.Write("sys/class/vfio/2020/dev", "240:0")
	n.tree.Write("sys/class/vfio/2021/dev", "240:1")
	n.kubelet.Start()
	t.Cleanup(n.kubelet.Stop)
	n.start()
	n.sees(resource, vf0+" "+vf1)
	// Of another device plugin, whose files look like ours.
	foreign := filepath.Join(n.files, "devinfo/dp/intel.com-sriov-x-"+vf0+"-device.json")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, vf := range []string{vf0, vf1} {
		if got := n.allocate(resource, vf); len(got.GetCdiDevices()) != 1 || len(got.GetDevices()) != 0 {
			t.Errorf("answer: %v", got)
		}
		n.kubelet.Give(vf, resource)
	}
	both := []string{
		"viaduct_intel.com_sriov-0000:02:10.0.json", "viaduct_intel.com_sriov-0000:02:10.2.json",
		"intel.com-sriov-0000:02:10.0-device.json", "intel.com-sriov-0000:02:10.2-device.json",
		"intel.com-sriov-x-0000:02:10.0-device.json",
	}
	have := func(what string, want []string) {
		t.Helper()
		n.afterSomeRounds()
		if diff := cmp.Diff(want, n.deviceFiles()); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", what, diff)
		}
	}
	have("pods run", both)
	n.stop()
	n.start()
	have("the plugin restarted", both)
	n.kubelet.Stop()
	n.kubelet.Knows(kubelettest.NoPodsYet)
	n.kubelet.Start()
	have("the kubelet just started", both)
	n.stop()
	n.patience = time.Millisecond
	n.start()
	have("both did, and the plugin lost patience", both)
	n.kubelet.Knows(kubelettest.AllPods)
	have("the kubelet knows its pods", both)
	n.kubelet.Give(vf0, "")
	have("a pod ended", []string{both[1], both[3], both[4]})
	n.stop()
	n.kubelet.Give(vf1, "")
	n.start()
	have("a pod ended meanwhile", []string{both[4]})
}

// Files of pools that left the configuration go when no pod has their devices, though that ends while nobody looks.
func TestFilesOfFormerPools(t *testing.T) {
	n := newNode(t, pools(first, other))
	n.sees(resource, vf0)
	n.sees("intel.com/other", vf1)
	for id, resource := range map[string]string{vf0: resource, vf1: "intel.com/other"} {
		n.allocate(resource, id)
		n.kubelet.Give(id, resource)
	}
	const file0, file1 = "intel.com-sriov-0000:02:10.0-device.json", "intel.com-other-0000:02:10.2-device.json"
	have := func(what string, want ...string) {
		t.Helper()
		n.afterSomeRounds()
		if diff := cmp.Diff(append([]string{}, want...), n.deviceFiles()); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", what, diff)
		}
	}
	n.configure(pools(`{"resourceName": "third", "selectors": {"drivers": ["vfio-pci"]}}`))
	have("no pool has them", file1, file0)
	n.kubelet.Give(vf0, "")
	have("one is free", file1)
	n.stop()
	n.kubelet.Give(vf1, "")
	n.start()
	have("after a restart")
	if owned, err := n.offer.DevInfo.Resources(); err != nil || len(owned) != 1 || owned[0] != "intel.com/third" {
		t.Errorf("resources whose files are ours: %v, %v", owned, err)
	}
}
