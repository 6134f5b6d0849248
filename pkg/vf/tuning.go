package vf

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Tuning is what ethtool sets on an interface: offloads, ring sizes, channels. They go with the interface into a pod and
// come back as the pod left them. The values are the kernel's own words, without names: numbers of features are stable
// within one boot, and so is what a Tuning is good for.
type Tuning struct {
	Features []uint32 `json:"features,omitempty"` // the bits that somebody asked for; nil: none can be set
	Rings    []uint32 `json:"rings,omitempty"`    // of a struct ethtool_ringparam, from rx_pending on
	Channels []uint32 `json:"channels,omitempty"` // of a struct ethtool_channels, from rx_count on
}

// The ioctls are made here and not by a library. safchain/ethtool, which the tests look with, asks for the names of all
// features (a megabyte), and hands the kernel addresses of its stack as plain numbers, which do not follow a stack that
// grows.
const (
	ethtoolGRings    = 0x10
	ethtoolSRings    = 0x11
	ethtoolGFeatures = 0x3a
	ethtoolSFeatures = 0x3b
	ethtoolGChannels = 0x3c
	ethtoolSChannels = 0x3d

	ethtoolCounts   = 9 // u32s of both ringparam and channels: the command, four limits, four values
	ethtoolValues   = 5 // where the values start
	ethtoolMaxWords = 8 // of features; the kernel has two or three
)

// ReadTuning reads the tuning of an interface in the process's own namespace. What its driver does not know is nil.
func ReadTuning(name string) (Tuning, error) {
	var t Tuning
	var errs []error
	available, requested, err := features(name)
	if err != nil {
		errs = append(errs, fmt.Errorf("read the offloads of %s: %w", name, err))
	} else if available != nil {
		t.Features = requested
	}
	if t.Rings, err = counts(name, ethtoolGRings); err != nil {
		errs = append(errs, fmt.Errorf("read the rings of %s: %w", name, err))
	}
	if t.Channels, err = counts(name, ethtoolGChannels); err != nil {
		errs = append(errs, fmt.Errorf("read the channels of %s: %w", name, err))
	}
	return t, errors.Join(errs...)
}

// ResetTuning gives an interface in the process's own namespace back what want says and what differs. It tries everything: what
// cannot be read is set all the same.
func ResetTuning(name string, want Tuning) error {
	now, err := ReadTuning(name)
	refused := func(what string, err error) error {
		if err == nil {
			return nil
		}
		return &Refused{Device: "interface " + name, Attribute: what, Err: err}
	}
	errs := []error{err}
	// Channels before rings: some drivers allocate the one from the other.
	if want.Channels != nil && !slices.Equal(now.Channels, want.Channels) {
		errs = append(errs, refused("channels", setCounts(name, ethtoolGChannels, ethtoolSChannels, want.Channels)))
	}
	if want.Rings != nil && !slices.Equal(now.Rings, want.Rings) {
		errs = append(errs, refused("rings", setCounts(name, ethtoolGRings, ethtoolSRings, want.Rings)))
	}
	if want.Features != nil && !slices.Equal(now.Features, want.Features) {
		errs = append(errs, refused("offloads", setFeatures(name, want.Features)))
	}
	return errors.Join(errs...)
}

// counts reads four values; nil if the driver has none.
func counts(name string, command uint32) ([]uint32, error) {
	data := make([]uint32, ethtoolCounts)
	data[0] = command
	err := ethtool(name, data)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return data[ethtoolValues:], err
}

func setCounts(name string, get, set uint32, values []uint32) error {
	data := make([]uint32, ethtoolCounts)
	data[0] = get // for the limits
	if err := ethtool(name, data); err != nil {
		return err
	}
	data[0] = set
	copy(data[ethtoolValues:], values)
	return ethtool(name, data)
}

// features reads a struct ethtool_gfeatures: the command, a number of words, and for each word of features four masks:
// available, requested, active, never changed.
func features(name string) (available, requested []uint32, err error) {
	data := make([]uint32, 2+4*ethtoolMaxWords)
	data[0], data[1] = ethtoolGFeatures, ethtoolMaxWords
	if err := ethtool(name, data); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	for i := range min(int(data[1]), ethtoolMaxWords) {
		available, requested = append(available, data[2+4*i]), append(requested, data[2+4*i+1])
	}
	return available, requested, nil
}

// setFeatures writes a struct ethtool_sfeatures: the command, the exact number of words, and for each word which bits are
// meant and what they are to be.
func setFeatures(name string, want []uint32) error {
	available, now, err := features(name)
	if err != nil {
		return err
	}
	if len(available) != len(want) {
		return fmt.Errorf("%w: the kernel has %d words of features, and had %d", unix.EINVAL, len(available), len(want))
	}
	data := []uint32{ethtoolSFeatures, uint32(len(want))}
	for i, w := range want {
		data = append(data, (now[i]^w)&available[i], w)
	}
	return ethtool(name, data)
}

// ethtool makes one SIOCETHTOOL; data starts with the command.
func ethtool(name string, data []uint32) error {
	if len(name) >= unix.IFNAMSIZ {
		return unix.EINVAL
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct ifreq: the name, then a union that holds the pointer to data.
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], name)
	request.data = unsafe.Pointer(unsafe.SliceData(data))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}
