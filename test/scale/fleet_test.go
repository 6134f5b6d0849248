//go:build scale

package scale

import (
	"encoding/json"
	"flag"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/memtest"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

var (
	agents = flag.Int("agents", 10, "how many agents run")
	// The API server ends each watch after five to ten minutes, which the agents ask for: less would miss that.
	idle = flag.Duration("idle", 12*time.Minute, "how long they are watched while nothing happens")
	pods = flag.Int("pods", 100, "how many pods come and go on one node")
)

// nodes is the size of the fleet that the slice stands for.
const nodes = 1000

// TestFleet has agents on the real API server, each with its bytes counted, and says what a fleet of them asks of it. The
// slice is multiplied: what an agent is sent does not depend on how many there are, which it asserts where it can.
func TestFleet(t *testing.T) {
	const few, many, changes = 100, 500, 50
	c := connect(t)
	for i := range few {
		c.define(t, i, 1500)
	}
	program := memtest.Build(t, "../../cmd/meta-agent")
	var fleet []*agent
	for i := range *agents {
		fleet = append(fleet, startAgent(t, c, program, fmt.Sprintf("node-%d", i), few))
	}
	quiet(t, fleet)
	fmt.Printf("\nfleet: %d agents on one API server; a definition is %d bytes of JSON\n", *agents, c.definitionSize(t))
	start := mean(fleet, func(a *agent) traffic { return a.wire.traffic() })
	fmt.Printf("  an agent starts, %d definitions            up %6d  down %8d bytes, %d requests, %d connections\n",
		few, start.up, start.down, fleet[0].requests(t), fleet[0].wire.connections.Load())

	perHour := measureIdle(t, fleet)
	measureChurn(t, c, fleet, perHour)

	before := snapshot(fleet)
	for i := range changes {
		c.define(t, i, 9000)
	}
	quiet(t, fleet)
	change := each(fleet, before, changes)
	fmt.Printf("  a definition changes, to every agent        up %6d  down %8d bytes; the agent that got most: %d\n", change.mean.up, change.mean.down, change.most)

	for i := few; i < many; i++ {
		c.define(t, i, 1500)
	}
	late := startAgent(t, c, program, "late", many)
	quiet(t, []*agent{late})
	larger := late.wire.traffic()
	fmt.Printf("  an agent starts, %d definitions            up %6d  down %8d bytes: %d for each definition more\n",
		many, larger.up, larger.down, (larger.down-start.down)/(many-few))

	mib := func(bytes int64) float64 { return float64(bytes) * nodes / (1 << 20) }
	fmt.Printf("\n%d nodes, multiplied\n", nodes)
	fmt.Printf("  idle                                        %.1f requests/s, %.1f MiB/h up, %.1f MiB/h down\n", perHour.requests*nodes/3600, mib(perHour.up), mib(perHour.down))
	fmt.Printf("  all agents start at once                    %d definitions: %.1f MiB; %d: %.1f MiB\n", few, mib(start.down), many, mib(larger.down))
	fmt.Printf("  a definition changes                        %.2f MiB\n", mib(change.mean.down))
}

func snapshot(fleet []*agent) []traffic {
	var all []traffic
	for _, a := range fleet {
		all = append(all, a.wire.traffic())
	}
	return all
}

func mean(fleet []*agent, f func(*agent) traffic) (m traffic) {
	for _, a := range fleet {
		one := f(a)
		m.up, m.down = m.up+one.up, m.down+one.down
	}
	n := int64(len(fleet))
	return traffic{m.up / n, m.down / n}
}

// A share is what agents got since a snapshot, divided by how many changes there were.
type share struct {
	mean traffic
	most int64 // bytes down
}

func each(fleet []*agent, before []traffic, changes int64) (s share) {
	for i, a := range fleet {
		got := a.wire.traffic().less(before[i])
		s.mean.up, s.mean.down = s.mean.up+got.up, s.mean.down+got.down
		s.most = max(s.most, got.down/changes)
	}
	n := int64(len(fleet)) * changes
	s.mean.up, s.mean.down = s.mean.up/n, s.mean.down/n
	return s
}

// quiet waits until nothing more comes: two seconds without a byte on any wire. Pings come every 30 s.
func quiet(t *testing.T, fleet []*agent) {
	t.Helper()
	last, since := snapshot(fleet), time.Now()
	eventually(t, "the wires are quiet", func() error {
		now := snapshot(fleet)
		for i := range now {
			if now[i] != last[i] {
				last, since = now, time.Now()
				break
			}
		}
		if time.Since(since) < 2*time.Second {
			return fmt.Errorf("a byte came %s ago", time.Since(since))
		}
		return nil
	})
}

// A rate is an agent's in one hour.
type rate struct {
	traffic
	requests float64
}

func measureIdle(t *testing.T, fleet []*agent) rate {
	t.Helper()
	requests := func() (n int) {
		for _, a := range fleet {
			n += a.requests(t)
		}
		return n
	}
	asked, before, at := requests(), snapshot(fleet), time.Now()
	time.Sleep(*idle) // what is measured
	got, hours := each(fleet, before, 1), time.Since(at).Hours()
	asked = requests() - asked
	r := rate{traffic{int64(float64(got.mean.up) / hours), int64(float64(got.mean.down) / hours)}, float64(asked) / hours / float64(len(fleet))}
	rss, anon := memtest.Resident(t, fleet[0].pid)
	fmt.Printf("  idle, an hour (from %s)                  up %6d  down %8d bytes, %.1f requests; the agent that got most: %d in the slice, the mean %d\n",
		*idle, r.up, r.down, r.requests, got.most, got.mean.down)
	fmt.Printf("  an agent's memory                           RSS %d KiB, anonymous %d KiB\n", rss, anon)
	return r
}

// measureChurn has pods come and go on the first node, with all that a kubelet writes of them. What the other agents get
// meanwhile must be no more than when idle.
func measureChurn(t *testing.T, c *cluster, fleet []*agent, idle rate) {
	t.Helper()
	busy, others := fleet[0], fleet[1:]
	asked, before, beforeOthers, at := busy.requests(t), busy.wire.traffic(), snapshot(others), time.Now()
	for i := range *pods {
		pod := c.createPod(t, busy.node, fmt.Sprintf("till-%d", i), fmt.Sprintf("net-%d", i%100))
		c.setStatus(t, pod, corev1.PodPending)
		busy.attach(t, pod, i)
		c.setStatus(t, pod, corev1.PodRunning)
		c.deletePod(t, pod, 30)
		c.setStatus(t, pod, corev1.PodSucceeded)
		c.deletePod(t, pod, 0)
	}
	busy.knows(t, "viaduct_agent_pods", 0)
	quiet(t, fleet)
	n := int64(*pods)
	got, requests := busy.wire.traffic().less(before), busy.requests(t)-asked
	fmt.Printf("  a pod comes and goes, to its node's agent   up %6d  down %8d bytes, %.2f requests\n", got.up/n, got.down/n, float64(requests)/float64(n))
	if requests < *pods {
		t.Errorf("%d requests for %d pods: each has its network-status", requests, *pods)
	}
	if len(others) == 0 {
		return
	}
	// A watch may have ended just then, and an hour's share of that is small: so much is allowed, and a pod is more.
	rest := each(others, beforeOthers, 1)
	most := int64(float64(idle.down)*time.Since(at).Hours()) + idle.down/8
	fmt.Printf("                to every other agent          down %8d bytes in all, for %d pods\n", rest.mean.down, n)
	if rest.mean.down > most || most > got.down {
		t.Errorf("the other agents got %d bytes each, the pods' own %d; at most %d are what an idle one gets", rest.mean.down, got.down, most)
	}
}

// attach is what the stub asks for one sandbox. What the kubelet would be asked does not reach the API server.
func (a *agent) attach(t *testing.T, pod network.Pod, i int) {
	t.Helper()
	plan, err := a.client.Plan(t.Context(), agentapi.Plan{
		ContainerID: fmt.Sprint(i), Pod: pod, Annotations: map[string]string{network.NetworksAnnotation: fmt.Sprintf("net-%d", i%100)},
	})
	if err != nil || len(plan.Attachments) != 1 {
		t.Fatalf("the plan of %s: %v, %v", pod.Name, plan, err)
	}
	status := fmt.Sprintf(`[{"name":"bridge","interface":"eth0","ips":["10.244.0.7"],"mac":"02:00:00:00:00:07","default":true,"dns":{}},`+
		`{"name":"%s/net-%d","interface":"net1","ips":["10.56.0.%d"],"mac":"02:00:00:00:64:0a","dns":{},`+
		`"device-info":{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:41:10.0"}}}]`, namespace, i%100, i%250)
	if err := a.client.Report(t.Context(), agentapi.Report{Pod: pod, Status: json.RawMessage(status)}); err != nil {
		t.Fatal(err)
	}
}
