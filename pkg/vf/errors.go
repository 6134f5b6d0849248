package vf

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What can go wrong; test with errors.Is. The errno is in the chain, too.
var (
	// ErrUnsupported means that the driver cannot set this attribute (EOPNOTSUPP, EPROTONOSUPPORT, and ENOTSUPP, which is the
	// kernel's own and which bnxt_en answers with an old firmware).
	ErrUnsupported = errors.New("not supported by the driver")
	// ErrInvalid means that the driver does not take this value, now or ever (EINVAL, ERANGE): igb refuses a rate, for
	// one, while the PF is down.
	ErrInvalid = errors.New("value refused by the driver")
	// ErrBusy means that another try may work (EBUSY, EAGAIN, ENOBUFS): the VF or the device is being reset.
	ErrBusy = errors.New("device busy")
	// ErrPermission means that the caller may not (EPERM, EACCES). Some drivers say so, too, of a VF that is not trusted.
	ErrPermission = errors.New("not permitted")
	// ErrNoDevice means that there is no such interface, or no longer (ENODEV, ENXIO).
	ErrNoDevice = errors.New("no such interface")
	// ErrExists means that the name is taken there, as a name or as an alternative name (EEXIST).
	ErrExists = errors.New("name already taken")
	// ErrAddress means that the VF may not have this MAC (EADDRNOTAVAIL): the PF's entry has another.
	ErrAddress = errors.New("address refused by the driver")
	// ErrNoVF means that the PF has no VF of this number.
	ErrNoVF = errors.New("no such VF")
	// ErrTooManyVFs means that the kernel cannot tell of this VF: the list of all of the PF's VFs, the only one there is,
	// outgrew a netlink attribute (EMSGSIZE, or a list that is cut off; at some 300 VFs). Make fewer VFs.
	ErrTooManyVFs = errors.New("the PF has more VFs than the kernel can list")
	// ErrUnsettled means that the driver took a setting and does not show it.
	ErrUnsettled = errors.New("setting did not take effect")
)

// enotsupp is ENOTSUPP of the kernel's include/linux/errno.h, which no program was meant to see.
const enotsupp = unix.Errno(524)

var sentinels = map[unix.Errno]error{
	unix.EOPNOTSUPP: ErrUnsupported, unix.EPROTONOSUPPORT: ErrUnsupported, enotsupp: ErrUnsupported,
	unix.EINVAL: ErrInvalid, unix.ERANGE: ErrInvalid,
	unix.EBUSY: ErrBusy, unix.EAGAIN: ErrBusy, unix.ENOBUFS: ErrBusy,
	unix.EPERM: ErrPermission, unix.EACCES: ErrPermission,
	unix.ENODEV: ErrNoDevice, unix.ENXIO: ErrNoDevice,
	unix.EEXIST:        ErrExists,
	unix.EADDRNOTAVAIL: ErrAddress,
	unix.EMSGSIZE:      ErrTooManyVFs,
}

// A Refused is one change that the driver or the kernel did not make.
type Refused struct {
	Device    string // which, as a person knows it: "VF 3 of 0000:02:00.0"
	Attribute string // such as "trust"; empty if the interface was only to be read
	Value     string // what it should have become
	// Settings is the part of a VF's settings that was refused; empty if it was something else.
	Settings Settings
	Err      error // the errno, with the kernel's own words if it had some
}

func (r *Refused) Error() string {
	text := fmt.Sprintf("read %s: %v", r.Device, r.Err)
	if r.Attribute != "" {
		text = fmt.Sprintf("set %s %s on %s: %v", r.Attribute, r.Value, r.Device, r.Err)
	}
	if s := r.sentinel(); s != nil {
		text += " (" + s.Error() + ")"
	}
	return text
}

func (r *Refused) sentinel() error {
	if errno, ok := errors.AsType[unix.Errno](r.Err); ok {
		return sentinels[errno]
	}
	return nil
}

// Unwrap gives the errno and the sentinel that stands for it.
func (r *Refused) Unwrap() []error {
	if s := r.sentinel(); s != nil {
		return []error{r.Err, s}
	}
	return []error{r.Err}
}
