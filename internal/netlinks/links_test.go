package netlinks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// start starts a Watch in the calling thread's network namespace, and waits until it listens.
func (l *Links) start(t testing.TB) {
	t.Helper()
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, listens := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- l.Watch(ctx, func() {
			select {
			case listens <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the watch ended with %v", err)
		}
		_ = unix.Close(namespace) // nothing was written
	})
	select {
	case <-listens:
	case <-time.After(30 * time.Second):
		t.Fatal("the watch does not listen")
	}
}

// settles takes in what the kernel says until that is what a fresh look finds.
func (l *Links) settles(t *testing.T, what string) {
	t.Helper()
	want, err := NodeLinks()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, _, err := l.Update(false)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if cmp.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s (-fresh +followed):\n%s", what, cmp.Diff(want, got))
		}
		time.Sleep(time.Millisecond)             // a poll's pause
		if want, err = NodeLinks(); err != nil { // what is there may take a moment, too: carrier does
			t.Fatal(err)
		}
	}
}

// heardAll checks that nothing was read again because messages were lost: that would hide what was not heard.
func heardAll(t *testing.T, l *Links) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.news.all || !l.watching {
		t.Error("messages were lost")
	}
}

// Whatever is done to interfaces, addresses and routes: following what the kernel says comes to what a fresh look finds.
func TestLinksFollow(t *testing.T) {
	inNewNetns(t)
	pod := fmt.Sprintf("viaduct-links-%d", os.Getpid())
	ip(t, "netns add "+pod)
	t.Cleanup(func() { ip(t, "netns del "+pod) })
	here := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	var l Links
	l.start(t)
	steps := []string{
		"link add nic1 type veth peer name far1", "link add nic2 type veth peer name far2", "link add nic3 index 103 type veth peer name far3 index 104",
		"link set nic1 up", "link set far1 up", "link property add dev nic1 altname enp59s0f0np0", "link set nic1 down",
		"link set nic1 name ens1", "link set ens1 name nic1", "link set nic1 up",
		"addr add 192.0.2.2/24 dev nic1", "route add default via 192.0.2.1", "addr del 192.0.2.2/24 dev nic1", // takes the route along
		"link set nic2 up", "link set far2 up", "route add default dev nic2", "link set nic2 down", // and so does this
		"link set nic2 up", "-6 route add default dev nic2", "-6 route del default dev nic2",
		"addr add 198.51.100.1/32 dev lo", "addr add 198.51.100.2/32 dev nic1", "route add default dev nic1 src 198.51.100.1",
		"addr del 198.51.100.1/32 dev lo", // the route's source
		"link add br0 type bridge", "link set br0 up", "link set nic2 master br0", "addr add 2001:db8::2/64 dev br0 nodad",
		"route add default dev br0", "link set nic2 nomaster", "link set nic2 master br0", "link set br0 name br1", "link del br1",
		"nexthop add id 10 dev nic1", "route add default nhid 10", "nexthop del id 10",
		// nic3's parent is elsewhere now, of which nothing is said: what gets its index is another.
		"link set far3 netns " + pod, "link add br3 index 104 type bridge", "addr add 192.0.2.9/24 dev nic3",
		"-n " + pod + " link set far3 netns " + here, "link del br3", "link del nic3",
		"link set nic1 netns " + pod, "-n " + pod + " link set nic1 netns " + here, "link del nic1", "link del nic2",
	}
	for _, step := range steps {
		ip(t, step)
		l.settles(t, step)
	}
	heardAll(t, &l)
}

// When a veth's first end is made the kernel does not know its parent yet, and does not say it later. Both ends are often heard
// of at once, in whatever order they are taken in.
func TestLinksFollowPairs(t *testing.T) {
	inNewNetns(t)
	var l Links
	l.start(t)
	l.settles(t, "at first") // from here on it goes by what it hears
	for n := range 8 {
		ip(t, fmt.Sprintf("link add nic%d type veth peer name far%d", n, n), fmt.Sprintf("addr add 192.0.2.%d/24 dev far%d", n+1, n))
	}
	l.settles(t, "eight pairs")
	heardAll(t, &l)
}

// What TestLinksFollow does, for a long row of changes of which each may fail, being no sensible one just then.
func TestLinksFollowAnything(t *testing.T) {
	inNewNetns(t)
	pod := fmt.Sprintf("viaduct-any-%d", os.Getpid())
	ip(t, "netns add "+pod)
	t.Cleanup(func() { ip(t, "netns del "+pod) })
	here := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	var l Links
	l.start(t)
	random := rand.New(rand.NewPCG(3, 4))
	nics := []string{"nic1", "far1", "nic2", "far2", "br1", "br2"}
	commands := []string{
		"link add nicN type veth peer name farN", "link add brN type bridge", "link del NIC", "link set NIC up", "link set NIC up", "link set NIC down",
		"link set NIC netns " + pod, "-n " + pod + " link set NIC netns " + here, "link set NIC master brN", "link set NIC nomaster",
		"link set NIC name new", "link set new name NIC", "link property add dev NIC altname alt-of-NIC",
		"addr add 192.0.2.N/24 dev NIC", "addr del 192.0.2.N/24 dev NIC", "addr add 2001:db8::N/64 dev NIC nodad", "addr flush dev NIC",
		"route add default dev NIC", "route del default", "route add default via 192.0.2.9", "-6 route add default dev NIC", "-6 route del default",
		"route add default dev NIC table 7 metric 1N src 192.0.2.N", "nexthop add id 1N dev NIC", "nexthop del id 1N", "route replace default nhid 1N",
	}
	worked := 0
	for range 200 {
		step := strings.NewReplacer("NIC", nics[random.IntN(len(nics))], "N", fmt.Sprint(1+random.IntN(2))).
			Replace(commands[random.IntN(len(commands))])
		if tryIP(t, step) == nil {
			worked++
			if strings.Contains(step, "altname") { // of which the kernel says nothing while the interface is down
				if _, _, err := l.Update(true); err != nil {
					t.Fatal(err)
				}
			}
			l.settles(t, step)
		}
	}
	if worked < 50 {
		t.Errorf("%d of the changes worked", worked)
	}
	heardAll(t, &l)
}

// What Update says has changed is what has.
func TestLinksSayWhatChanged(t *testing.T) {
	inNewNetns(t)
	ip(t, "link add nic1 type veth peer name far1", "link add nic2 type veth peer name far2")
	var l Links
	if _, changed, err := l.Update(false); err != nil || len(changed) != 5 { // with lo
		t.Fatalf("at first: %v, %v", changed, err)
	}
	l.start(t)
	if _, changed, err := l.Update(false); err != nil || len(changed) != 0 {
		t.Fatalf("nothing happened: %v, %v", changed, err)
	}
	ip(t, "link set nic2 name nic3")
	for range 30_000 {
		links, changed, err := l.Update(false)
		if err != nil {
			t.Fatal(err)
		}
		if len(changed) == 0 {
			time.Sleep(time.Millisecond) // a poll's pause
			continue
		}
		if len(changed) != 1 || links[changed[0]].Name != "nic3" {
			t.Errorf("changed: %v", changed)
		}
		return
	}
	t.Error("the new name was not seen")
}

// The kernel drops messages that the socket has no room for. Then everything is read, and the watch goes on.
func TestLinksLost(t *testing.T) {
	inNewNetns(t)
	l := Links{buffer: 1} // the kernel makes a few kilobytes of it
	l.start(t)
	for range 5 {
		ip(t, "link add nic1 type veth peer name far1", "link add nic2 type veth peer name far2", "link del nic1", "link set nic2 up")
		l.settles(t, "many changes")
		ip(t, "link del nic2")
		l.settles(t, "one more")
	}
}

// Messages that say nothing of the kind, or nothing whole.
func TestLinksMessages(t *testing.T) {
	message := func(kind uint16, data ...byte) syscall.NetlinkMessage {
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: append(data, make([]byte, 16)...)}
	}
	const global, link = unix.RT_SCOPE_UNIVERSE, unix.RT_SCOPE_LINK
	tests := map[string]struct {
		message syscall.NetlinkMessage
		want    news
	}{
		"a bridge's port":           {message(unix.RTM_DELLINK, unix.AF_BRIDGE), news{}},
		"a wireless driver's event": {message(unix.RTM_NEWLINK, unix.AF_UNSPEC), news{}},
		"IPv6 address":              {message(unix.RTM_NEWADDR, unix.AF_INET6, 64, 0, global), news{addresses: true}},
		"IPv6 link-local address":   {message(unix.RTM_DELADDR, unix.AF_INET6, 64, 0, link), news{}},
		"IPv4 address that goes":    {message(unix.RTM_DELADDR, unix.AF_INET, 24, 0, global), news{addresses: true, routes: true}},
		"IPv4 address with a scope": {message(unix.RTM_NEWADDR, unix.AF_INET, 24, 0, link), news{addresses: true}},
		"default route":             {message(unix.RTM_NEWROUTE, unix.AF_INET, 0), news{routes: true}},
		"half of everything":        {message(unix.RTM_DELROUTE, unix.AF_INET6, 1), news{routes: true}},
		"a pod's route":             {message(unix.RTM_NEWROUTE, unix.AF_INET, 32), news{}},
		"next-hop object":           {message(unix.RTM_DELNEXTHOP, unix.AF_INET), news{routes: true}},
		"something else":            {message(unix.RTM_NEWRULE, unix.AF_INET), news{}},
		"too short":                 {syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_DELADDR}}, news{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got news
			if matters := got.add(test.message); matters != (test.want.addresses || test.want.routes) {
				t.Errorf("matters: %v", matters)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(news{})); diff != "" {
				t.Errorf("news (-want +got):\n%s", diff)
			}
		})
	}
}
