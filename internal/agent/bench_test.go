package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/agentapi"
	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/ondisk"
)

// A plan with 1,000 definitions and 250 pods known, the kubelet's answer included: the bar is a median of 1 ms.
func BenchmarkPlan(b *testing.B) {
	const definitions, pods = 1000, 250
	api, fake := newAPIServer(b), newKubelet(b)
	for i := range definitions {
		api.putNAD(fmt.Sprintf("net-%d", i), "intel.com/sriov",
			fmt.Sprintf(`{"cniVersion":"1.0.0","type":"sriov","vlan":%d,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.56.%d.0/24"}]]}}`, i%4000+1, i%256))
	}
	for i := range pods {
		fake.give(podNumber(i), "intel.com/sriov", fmt.Sprintf("0000:02:%02x.0", i), fmt.Sprintf("0000:03:%02x.0", i))
		api.putPod(podNumber(i), networks(fmt.Sprintf("net-%d,net-%d", i, i+pods)))
	}
	kubelet, err := NewKubelet(fake.socket)
	if err != nil {
		b.Fatal(err)
	}
	defer kubelet.Close()
	planner := &Planner{Kube: startKube(b, api), Kubelet: kubelet, OnDisk: ondisk.Folder(b.TempDir()), Node: &network.NodeConfig{}}
	api.requests()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		plan, err := planner.Plan(context.Background(), agentapi.Plan{Pod: podNumber(i % pods)})
		if took = append(took, time.Since(start)); err != nil || len(plan.Attachments) != 2 {
			b.Fatalf("got %v, %v", plan, err)
		}
	}
	if asked := api.requests(); len(asked) > 0 {
		b.Errorf("the API server was asked %v", asked)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
