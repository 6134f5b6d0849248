//go:build labhost

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// look says what hardware the guest has, and whether PF 2 answers PF 1, in as many tries as the argument says.
const look = `
for pf in /sys/bus/pci/devices/*/sriov_totalvfs; do
	pf=${pf%/*}
	echo "PF on node $(cat $pf/numa_node): $(cat $pf/sriov_numvfs) VFs of $(cat $pf/sriov_totalvfs), $(ls -d $pf/virtfn*/net/* 2>/dev/null | wc -l) with an interface"
	names="$names $(ls $pf/net)"
done
echo "nodes $(cat /sys/devices/system/node/online), CPUs $(nproc)"
tries=$1
set -- $names
ip netns add other && ip link set $2 netns other
ip link set $1 up && ip address add 10.9.8.1/24 dev $1
ip -n other link set $2 up && ip -n other address add 10.9.8.2/24 dev $2
until ip link show $1 | grep -q LOWER_UP && ip -n other link show $2 | grep -q LOWER_UP; do sleep 0.1; done
sent=$(cat /sys/class/net/$1/statistics/tx_packets)
while [ $tries != 0 ]; do
	ping -c 1 -W 1 10.9.8.2 >/dev/null && echo "PF 2 answered" && break
	tries=$((tries - 1))
done
[ $(cat /sys/class/net/$1/statistics/tx_packets) = $sent ] || echo "PF 1 sent"
cat /persist/file
echo kept >/persist/file
echo out >/artefacts/file
awk '/^MemTotal:/ {print int($2 / 1024), "MiB"}' /proc/meminfo
`

// TestFlags boots machines whose hardware is none by default, and has the guest say what it is.
func TestFlags(t *testing.T) {
	persist, artefacts := t.TempDir(), filepath.Join(t.TempDir(), "made")
	both := []string{"--persist", persist, "--artefacts", artefacts}
	tests := []struct {
		flags  string
		tries  string
		memory int
		want   string
	}{
		{
			"--pfs 3 --vfs 2 --numa 3 --cpus 2 --memory 900 --joined=false", "5", 900, `
PF on node 0: 2 VFs of 7, 2 with an interface
PF on node 1: 2 VFs of 7, 2 with an interface
PF on node 2: 2 VFs of 7, 2 with an interface
nodes 0-2, CPUs 2
PF 1 sent
`,
		},
		{"--pfs 4 --memory 700", "60", 700, `
PF on node 0: 0 VFs of 7, 0 with an interface
PF on node 0: 0 VFs of 7, 0 with an interface
PF on node 1: 0 VFs of 7, 0 with an interface
PF on node 1: 0 VFs of 7, 0 with an interface
nodes 0-1, CPUs 1
PF 2 answered
PF 1 sent
kept
`},
	}
	for _, tt := range tests {
		t.Run(tt.flags, func(t *testing.T) {
			args := append(append([]string{"run"}, strings.Fields(tt.flags)...), both...)
			var stdout, stderr bytes.Buffer
			exit, err := run(t.Context(), append(args, "--", "sh", "-c", look, "look", tt.tries), &stdout, &stderr)
			if exit != 0 || err != nil {
				t.Fatalf("exit %d, error %v: %s", exit, err, stderr.String())
			}
			said := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
			last := len(said) - 1
			if d := cmp.Diff(tt.want, "\n"+strings.Join(said[:last], "\n")+"\n"); d != "" {
				t.Error(d)
			}
			// The kernel keeps a part for itself.
			var memory int
			if _, err := fmt.Sscanf(said[last], "%d MiB", &memory); err != nil || memory > tt.memory || memory < tt.memory*3/4 {
				t.Errorf("it has %q, want a little less than %d MiB", said[last], tt.memory)
			}
			out, err := os.ReadFile(filepath.Join(artefacts, "file"))
			if err != nil || string(out) != "out\n" {
				t.Errorf("/artefacts came back with %q, %v", out, err)
			}
			if err := os.Remove(filepath.Join(artefacts, "file")); err != nil {
				t.Error(err)
			}
		})
	}
}
