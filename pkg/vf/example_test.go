package vf_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// What is to be set on a VF is worked out before anything is changed.
func ExamplePlan() {
	have := vf.Settings{MAC: &vf.MAC{2, 0, 0, 0, 0, 1}, VLAN: new(vf.Untagged), SpoofCheck: new(true), Trust: new(false)}
	want := vf.Settings{VLAN: &vf.VLAN{ID: 100, QoS: 3, Proto: vf.Proto8021Q}, SpoofCheck: new(true), Trust: new(true)}

	todo := vf.Plan(have, want)
	fmt.Println("set: ", todo)
	fmt.Println("undo:", vf.Plan(have.With(todo), have))
	// Output:
	// set:  vlan 100, QoS 3, 802.1q; trust on
	// undo: vlan 0, QoS 0, 802.1q; trust off
}

// A VF into a network namespace and back: VF 0 of the PF 0000:02:00.0, whose interface has the index 3.
func Example() {
	ctx := context.Background()
	here, err := netns.Current()
	if err != nil {
		log.Fatal(err)
	}
	defer here.Close()
	there, err := netns.Open("/run/netns/blue")
	if err != nil {
		log.Fatal(err) // netns.ErrGone if there is none
	}
	defer there.Close()
	host, err := vf.NewConn(here)
	if err != nil {
		log.Fatal(err)
	}
	pod, err := vf.NewConn(there)
	if err != nil {
		log.Fatal(err)
	}

	pf := vf.PF{Address: "0000:02:00.0", Index: 3}
	before, err := host.Read(pf, 0)
	if err != nil {
		log.Fatal(err)
	}
	dev, err := host.Find("0000:02:10.0")
	if err != nil {
		log.Fatal(err)
	}
	want := vf.Settings{VLAN: &vf.VLAN{ID: 100, Proto: vf.Proto8021Q}, Trust: new(false)}
	err = host.Write(pf, 0, vf.Plan(before, want))
	if refused, ok := errors.AsType[*vf.Refused](err); ok {
		log.Printf("the driver does not take %s %s", refused.Attribute, refused.Value)
	}
	// Some drivers take their time: look until it is there.
	if _, err := host.Settle(ctx, pf, 0, want); err != nil {
		log.Fatal(err)
	}
	if err := host.Move(dev.Index, pod, vf.Arrival{Name: "net1", Up: true}); err != nil {
		log.Fatal(err)
	}

	// And back: by its PCI address, whatever it is called by now.
	moved, err := pod.Find("0000:02:10.0")
	if err != nil {
		log.Fatal(err)
	}
	err = errors.Join(
		pod.DropAltNames(moved, dev.AltNames), // one of them may be taken at home
		pod.Move(moved.Index, host, vf.Arrival{Name: dev.Name}),
	)
	if err != nil {
		log.Fatal(err)
	}
	if errs := host.WriteEach(pf, 0, vf.Plan(before.With(want), before)); len(errs) > 0 {
		log.Print("not put back on the PF: ", errors.Join(errs...))
	}
	home, err := host.Find("0000:02:10.0")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := host.Reset(home, dev); err != nil {
		log.Fatal(err)
	}
}
