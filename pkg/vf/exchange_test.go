package vf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/pkg/netns"
)

// newNetns puts the test's thread into a network namespace of its own, which has but a loopback interface.
func newNetns(t *testing.T) *Conn {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	return connect(t, "/proc/thread-self/ns/net")
}

func connect(t *testing.T, path string) *Conn {
	t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := NewConn(ns)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func loopback(t *testing.T) *net.Interface {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo
}

// An answer that does not fit is asked for again with room for it.
func TestAnswerOutgrowsBuffer(t *testing.T) {
	c := newNetns(t)
	c.buffer = make([]byte, 64)
	dev, err := c.Get(loopback(t).Index)
	if err != nil || dev.Name != "lo" {
		t.Fatalf("%+v, %v; want lo", dev, err)
	}
	if len(c.buffer) <= 64 {
		t.Error("the buffer did not grow")
	}
}

// What nobody reads in time must not be taken for the answer to the next request.
func TestLateAnswer(t *testing.T) {
	c := newNetns(t)
	ip(t, "link add vf0 type veth peer name p-vf0")
	dev := named(t, c, "vf0")
	late := c.request(unix.RTM_GETLINK, 0, loopback(t).Index, 0, 0)
	late.Seq = c.seq
	if err := unix.Sendto(c.socket, late.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(dev.Index); err != nil || got.Name != "vf0" {
		t.Errorf("asked for vf0 after lo was: %+v, %v", got, err)
	}
}

// The errno, its meaning and the kernel's own words.
func TestAnswersErrors(t *testing.T) {
	c := newNetns(t)
	lo := loopback(t).Index
	if _, err := c.Get(4711); !errors.Is(err, ErrNoDevice) || !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v, want ErrNoDevice and ENODEV", err)
	}
	if _, err := c.Find("0000:00:00.0"); !errors.Is(err, ErrNoDevice) {
		t.Errorf("a device that is not there: %v, want ErrNoDevice", err)
	}
	r := c.request(unix.RTM_SETLINK, unix.NLM_F_ACK, lo, 0, 0)
	c.attr(r, unix.IFLA_MTU, nl.Uint32Attr(1<<31))
	if err := c.set(r); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "mtu") {
		t.Errorf("a huge MTU: %v, want EINVAL with the kernel's words about the MTU", err)
	}
	if err := c.DropAltNames(Netdev{Index: lo, AltNames: []string{"nobody"}}, nil); err == nil {
		t.Error("an alternative name that is not there was dropped")
	}
	// No PF: there is no VF to read, and none to set.
	pf := PF{Address: "0000:00:00.0", Index: lo}
	if _, err := c.Read(pf, 0); !errors.Is(err, ErrNoVF) {
		t.Errorf("read VF 0 of the loopback: %v, want ErrNoVF", err)
	}
	err := c.Write(pf, 0, Settings{Trust: new(true)})
	if refused, ok := errors.AsType[*Refused](err); !ok || refused.Attribute != "trust" || !errors.Is(err, ErrUnsupported) {
		t.Errorf("set trust on VF 0 of the loopback: %v, want trust refused with ErrUnsupported", err)
	}
	if err := c.Write(PF{Index: 4711}, 0, Settings{Trust: new(true)}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("set trust on a PF that is not there: %v, want ErrNoDevice", err)
	}
}

// A refusal does not keep the rest from being tried, and each one says what was refused. The loopback has no VFs, so all is.
func TestWriteEach(t *testing.T) {
	c := newNetns(t)
	want := Settings{VLAN: &VLAN{ID: 7, Proto: Proto8021Q}, Rate: &Rate{Max: 5}, Trust: new(true)}
	var got Settings
	for _, err := range c.WriteEach(PF{Index: 1}, 0, want) {
		refused, ok := errors.AsType[*Refused](err)
		if !ok || !errors.Is(err, ErrUnsupported) {
			t.Fatalf("got %v, want a refusal with ErrUnsupported", err)
		}
		got = got.With(refused.Settings)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused: %s", diff)
	}
	if c.Count.PFWrites != 4 {
		t.Errorf("%d writes, want one of all and one of each", c.Count.PFWrites)
	}
}

// A PF with so many VFs that its list outgrew the 16 bits of an attribute's length.
func TestTooManyVFs(t *testing.T) {
	var list []byte
	const vfs = 700
	for i := range vfs {
		list = append(list, infoOf(all(Proto8021AD), i)...)
	}
	if len(list) < 1<<16 {
		t.Fatalf("%d VFs are no more than an attribute can hold", vfs)
	}
	attribute := func(kind uint16, value []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(len(value)+4))
		return append(binary.NativeEndian.AppendUint16(b, kind), value...)
	}
	message := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_NUM_VF, binary.NativeEndian.AppendUint32(nil, vfs))...)
	cut := append(message, attribute(unix.IFLA_VFINFO_LIST, list)...)
	l, err := parseLink(cut)
	if err == nil {
		_, err = entry(l, PF{}, vfs-1)
	}
	if !errors.Is(err, ErrTooManyVFs) {
		t.Errorf("VF %d of %d: %v, want ErrTooManyVFs", vfs-1, vfs, err)
	}
	// As many as fit are read, the last one too.
	const fit = 256
	list = nil
	for i := range fit {
		list = append(list, infoOf(all(Proto8021AD), i)...)
	}
	if l, err = parseLink(append(message, attribute(unix.IFLA_VFINFO_LIST, list)...)); err != nil {
		t.Fatal(err)
	}
	s, err := entry(l, PF{}, fit-1)
	if err != nil || *s.VLAN != *all(Proto8021AD).VLAN {
		t.Errorf("VF %d of %d: %v, %v", fit-1, fit, s, err)
	}
}

func FuzzAnswers(f *testing.F) {
	message := func(kind, flags uint16, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, flags)
		return append(append(b, 1, 0, 0, 0, 0, 0, 0, 0), body...)
	}
	f.Add(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 0xea, 0xff, 0xff, 0xff, 16, 0, 0, 0))
	f.Add(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, append(append([]byte{0xea, 0xff, 0xff, 0xff}, make([]byte, 16)...), 8, 0, 1, 0, 'w', 'h', 'y', 0)...))
	f.Add(append(message(unix.RTM_NEWLINK, unix.NLM_F_MULTI, make([]byte, 16)...), message(unix.NLMSG_DONE, 0, 0, 0, 0, 0)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		a := answers{seq: 1, each: func(body []byte) error {
			_, err := parseLink(body)
			return err
		}}
		_ = a.read(b)
	})
}

// A signal ends a wait for the kernel: on a socket with a time limit even one whose handler restarts calls. The wait goes on.
func TestSignals(t *testing.T) {
	c := connect(t, "/proc/thread-self/ns/net")
	lo := loopback(t).Index
	tid, answer := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		b, err := c.receive()
		if err == nil && len(b) < unix.SizeofNlMsghdr {
			err = fmt.Errorf("%d bytes", len(b))
		}
		answer <- err
	}()
	waiting := <-tid
	for range 5 {
		awaitCall(t, waiting, unix.SYS_RECVFROM)
		if err := unix.Tgkill(unix.Getpid(), waiting, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
	}
	awaitCall(t, waiting, unix.SYS_RECVFROM)
	r := c.request(unix.RTM_GETLINK, 0, lo, 0, 0)
	if err := unix.Sendto(c.socket, r.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

// awaitCall waits until a thread is in a system call.
func awaitCall(t *testing.T, tid, call int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		in, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(in), fmt.Sprint(call, " ")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the thread is not in call %d, but: %s", call, in)
		}
	}
}

// A dump that changed under the kernel's hands is asked for again.
func TestInterruptedDump(t *testing.T) {
	for flags, want := range map[uint16]bool{unix.NLM_F_MULTI: false, unix.NLM_F_MULTI | unix.NLM_F_DUMP_INTR: true} {
		b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr)
		b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_DONE)
		b = binary.NativeEndian.AppendUint16(b, flags)
		a := answers{seq: 1}
		if err := a.read(append(b, 1, 0, 0, 0, 0, 0, 0, 0)); err != nil || !a.done || a.interrupted != want {
			t.Errorf("flags %#x: %v, done %v, interrupted %v", flags, err, a.done, a.interrupted)
		}
	}
}
