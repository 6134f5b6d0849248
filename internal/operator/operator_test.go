package operator_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-sriov/viaduct/internal/operator"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

func list(t *testing.T, n *operator.Node) (*operator.Status, string) {
	t.Helper()
	s, err := n.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, print(t, s.Print)
}

func print(t *testing.T, f func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestList(t *testing.T) {
	n := node(t)
	_, got := list(t, n)
	got = strings.ReplaceAll(got, n.Root, "ROOT")
	want := `ens2  0000:02:00.0  igb  NUMA 0  link up  6 of 7 VFs  82576 Gigabit Network Connection
  VF  ADDRESS       DRIVER    POOL              STATE       OWNER                                     SETTINGS
  0   0000:02:10.0  igbvf     intel.com/sriov   attached    default/web-0 net1
      vlan 100 qos 3, mac 02:00:00:00:00:64, spoofchk off, trust on, link enable, rate 0-1000
  1   0000:02:10.2  igbvf     example.org/fast  adding      batch/job-with-a-lon…9fbc6c9-x2x4z data0
      vlan 100 qos 3, mac 02:00:00:00:00:64, spoofchk off, trust on, link enable, rate 0-1000
  2   0000:02:10.4  igbvf     intel.com/sriov   removing    aaaabbbbccccd net1
      vlan 100 qos 3, mac 02:00:00:00:00:64, spoofchk off, trust on, link enable, rate 0-1000
      ! it could not be put back: set mac: the driver refused it (EPERM)
  3   0000:02:10.6  igbvf     intel.com/sriov   free        -                                         -
  4   0000:02:11.0  igbvf     intel.com/sriov   free        -                                         -
      ! it has a record that does not count: it is from before the last boot
  5   0000:02:11.2  vfio-pci  intel.com/dpdk    unreadable  -                                         -
      ! unhealthy: its driver is vfio-pci, but it has no vfio node: see whether the IOMMU is on
      ! corrupt record ROOT/run/vfs/0000:02:11.2.json: unexpected EOF
ens3  0000:03:00.0  igb  NUMA 0  link up  0 of 7 VFs  82576 Gigabit Network Connection
record 0000:04:10.0: the VF is no more; it was aaaabbbbccccd net1's
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

// A pool that wants a link has one more reason for a VF to be unhealthy.
func TestHealthAsThePoolSeesIt(t *testing.T) {
	n := node(t)
	for path, content := range map[string]string{
		"sys/bus/pci/devices/0000:02:00.0/net/ens2/carrier": "0",
		n.PoolsFile: `{"resourceList": [
			{"resourceName": "link", "selectors": {"pfNames": ["ens2#3"]}, "healthCheck": {"pfLink": true}},
			{"resourceName": "any", "selectors": {"drivers": ["igbvf"]}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(n.Root, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := list(t, n)
	for what, want := range map[string]string{"ens2#3": "its PF has no carrier", "ens2#4": ""} {
		_, v, err := s.Find(what)
		if err != nil {
			t.Fatal(err)
		}
		if v.Unhealthy != want {
			t.Errorf("%s in %s: unhealthy is %q, want %q", what, v.Resource, v.Unhealthy, want)
		}
	}
}

func TestShow(t *testing.T) {
	s, _ := list(t, node(t))
	pf, v, err := s.Find("ens2#0")
	if err != nil {
		t.Fatal(err)
	}
	want := `VF           0 of ens2 (0000:02:00.0)
address      0000:02:10.0
driver       igbvf
NUMA node    0
IOMMU group  2020
interface    ens2v0 on the host
pool         intel.com/sriov
health       healthy
state        attached
pod          default/web-0
sandbox      aaaabbbbccccddddeeee
as           net1
network      vlan100
netns        /var/run/netns/cni-1

AT THE PF   BEFORE             WANTED              NOW
mac         00:00:00:00:00:00  02:00:00:00:00:64   -
vlan        0, QoS 0, 802.1q   100, QoS 3, 802.1q  -
rate        0…0 Mbit/s         0…1000 Mbit/s       -
spoofchk    on                 off                 -
link_state  auto               enable              -
trust       off                on                  -

`
	if diff := cmp.Diff(want, print(t, func(w io.Writer) error { return v.Show(w, pf) })); diff != "" {
		t.Errorf("show (-want +got):\n%s", diff)
	}
}

func TestFind(t *testing.T) {
	s, _ := list(t, node(t))
	for what, want := range map[string]string{
		"0000:02:10.2": "0000:02:10.2", "02:10.2": "0000:02:10.2", "ens2#1": "0000:02:10.2", "0000:02:00.0#1": "0000:02:10.2", "ens2v1": "0000:02:10.2",
		"ens2": "PF 0000:02:00.0", "0000:03:00.0": "PF 0000:03:00.0",
		"ens2#9": `ens2 has no VF 9: it has 6 VFs, numbered from 0`,
		"ens9":   `there is no PF or VF "ens9": want a PCI address such as 0000:02:10.0, or a PF and an index such as ens2#0; see vfctl list`,
	} {
		pf, v, err := s.Find(what)
		got := ""
		switch {
		case err != nil:
			got = err.Error()
		case v != nil:
			got = v.Address
		default:
			got = "PF " + pf.Address
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
}

// What a person reads where a VF is not as it should be.
func TestListOfDifferences(t *testing.T) {
	live := vf.Settings{VLAN: &vf.VLAN{ID: 200, Proto: vf.Proto8021Q}, SpoofCheck: new(true)}
	s := &operator.Status{
		PFs: []operator.PF{{
			Address: "0000:02:00.0", Name: "ens2", Driver: "igb", NUMANode: -1, TotalVFs: 7, Vendor: "8086", Device: "10c9",
			VFs: []operator.VF{{
				Address: "0000:02:10.0", Driver: "igbvf", Resource: "intel.com/sriov", State: operator.Left, Settings: &live,
				Unhealthy:   "its PF 0000:02:00.0 is gone",
				Owner:       &operator.Owner{Namespace: "default", Pod: "web-0", Interface: "net1"},
				Differences: live.Differences(vf.Settings{VLAN: &vf.VLAN{ID: 100, Proto: vf.Proto8021Q}, SpoofCheck: new(false)}),
			}},
		}},
		Notes: []string{"the kubelet does not say which devices pods have: no such socket"},
	}
	want := `ens2  0000:02:00.0  igb  link down  1 of 7 VFs  8086:10c9
  VF  ADDRESS       DRIVER  POOL             STATE  OWNER               SETTINGS
  0   0000:02:10.0  igbvf   intel.com/sriov  left   default/web-0 net1  vlan 200
      ! unhealthy: its PF 0000:02:00.0 is gone
      ! its owner is gone: the next pod on it puts it back first, and so does vfctl gc
      ! vlan is 200, QoS 0, 802.1q, and should be 100, QoS 0, 802.1q
      ! spoofchk is on, and should be off
note: the kubelet does not say which devices pods have: no such socket
`
	if diff := cmp.Diff(want, print(t, s.Print)); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

// A report shows the node as it was, and nothing secret.
func TestReport(t *testing.T) {
	n := node(t)
	dir := filepath.Join(t.TempDir(), "report")
	b, err := operator.NewFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Report(t.Context(), b, "v1", true), b.Close()); err != nil {
		t.Fatal(err)
	}
	files := all(t, dir)
	for name, content := range files {
		if strings.Contains(content, hidden) {
			t.Errorf("%s has a secret:\n%s", name, content)
		}
		if strings.HasSuffix(name, ".json") && !strings.HasPrefix(content, "left out: ") && !json.Valid([]byte(content)) {
			t.Errorf("%s is no JSON:\n%s", name, content)
		}
	}
	for _, want := range []string{
		"README.txt", "list.txt", "list.json", "devices.json", "versions.txt", "logs/vf/sriov.log",
		"logs/pods/viaduct_device-plugin-x_1/device-plugin/0.log", "node/run/vfs/0000:02:10.0.json", "node/run/vfs/listing.txt",
		"node/var/lib/journals/" + sandbox + ".json", "node/etc/cni/net.d/10-default.conflist", "node/etc/pcidp/config.json",
	} {
		if files[want] == "" {
			t.Errorf("no %s", want)
		}
	}
	if want := "/run/vfs/0000:02:11.2.json: it is not JSON: unexpected EOF\n"; files["missing.txt"] != want {
		t.Errorf("missing.txt: %s, want %s", files["missing.txt"], want)
	}
	_, before := list(t, n)
	again := &operator.Node{Root: filepath.Join(dir, "node"), NodeName: n.NodeName, Names: n.Names, Log: n.Log}
	if err := again.Find(); err != nil {
		t.Fatal(err)
	}
	_, after := list(t, again)
	// The record that is cut off stays behind, for nobody knows what would have to be taken out of it: another one that
	// cannot be read is in its place.
	corrupt := regexp.MustCompile(`(corrupt record) .*`)
	if diff := cmp.Diff(corrupt.ReplaceAllString(before, "$1"), corrupt.ReplaceAllString(after, "$1")); diff != "" {
		t.Errorf("the list of the report (-node +report):\n%s", diff)
	}
}

func TestReportAsArchive(t *testing.T) {
	n := node(t)
	var out bytes.Buffer
	b := operator.NewArchive(&out, "report-1", time.Unix(1e9, 0))
	if err := errors.Join(n.Report(t.Context(), b, "v1", false), b.Close()); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name] = h.Linkname
		if strings.Contains(h.Name, "logs/") || !strings.HasPrefix(h.Name, "report-1/") {
			t.Errorf("it has %s", h.Name)
		}
	}
	if link := names["report-1/node/sys/bus/pci/devices/0000:02:10.0/physfn"]; link != "../0000:02:00.0" {
		t.Errorf("physfn is %q", link)
	}
}

func TestCapturedTreesAreNotMended(t *testing.T) {
	n := node(t)
	if _, _, err := n.Restore(t.Context(), "ens2#0", true); !errors.Is(err, operator.ErrCaptured) {
		t.Errorf("restore: %v", err)
	}
	if _, err := n.GC(t.Context(), false); !errors.Is(err, operator.ErrCaptured) {
		t.Errorf("gc: %v", err)
	}
}
