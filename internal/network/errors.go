package network

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrInvalid is wrapped by every error that the author of a pod or of a definition can mend.
var ErrInvalid = errors.New("invalid network request")

// An Error says which pod asked for which network, which key is wrong and how, and what to do about it. Parts that do not
// apply are empty.
type Error struct {
	Reason  Reason
	Pod     Pod
	Network string // "namespace/definition"
	Key     string // an annotation's or a configuration's key, or a path of such
	Problem string // what was found and what was expected
	Remedy  string // what to do
}

func (e *Error) Error() string {
	var where []string
	if e.Pod.Name != "" {
		where = append(where, "pod "+e.Pod.Namespace+"/"+e.Pod.Name)
	}
	if e.Network != "" {
		where = append(where, "network "+e.Network)
	}
	if e.Key != "" {
		where = append(where, "key "+e.Key)
	}
	s := e.Problem
	if len(where) > 0 {
		s = strings.Join(where, ", ") + ": " + s
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s + " (" + string(e.Reason) + ")"
}

// Unwrap makes every Error an ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// problem starts an Error that knows only what is wrong; callers add the pod, the network and the key as they know them.
func problem(reason Reason, remedy, format string, args ...any) *Error {
	return &Error{Reason: reason, Problem: fmt.Sprintf(format, args...), Remedy: remedy}
}

// at returns the error with the outer key put before its own.
func (e *Error) at(key string) *Error {
	if e == nil {
		return nil
	}
	c := *e
	switch {
	case c.Key == "":
		c.Key = key
	case key == "":
	case strings.HasPrefix(c.Key, "["):
		c.Key = key + c.Key
	default:
		c.Key = key + "." + c.Key
	}
	return &c
}

// of returns the error with the pod and the network filled in where it has none.
func (e *Error) of(pod Pod, network string) *Error {
	if e == nil {
		return nil
	}
	c := *e
	if c.Pod.Name == "" {
		c.Pod = pod
	}
	if c.Network == "" {
		c.Network = network
	}
	return &c
}

// quote shows a value of the user's: with escapes for what a terminal would act on, and never more than a line.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// MaxFaults is how many faults of one request are told: all of an honest author's, and a message that fits an event
// whatever the annotation holds.
const MaxFaults = 10

// faults are all that is wrong with one request, so that an author sees it at once. There is a bound on them, as on what a
// request can hold.
type faults []*Error

func (f *faults) add(err *Error) {
	if err != nil {
		*f = append(*f, err)
	}
}

// at is Error.at for each of them.
func (f faults) at(key string) faults {
	return f.each(func(e *Error) *Error { return e.at(key) })
}

// of is Error.of for each of them.
func (f faults) of(pod Pod) faults {
	return f.each(func(e *Error) *Error { return e.of(pod, "") })
}

func (f faults) each(change func(*Error) *Error) faults {
	changed := make(faults, len(f))
	for i, e := range f {
		changed[i] = change(e)
	}
	return changed
}

// err tells the first of them, and how many there are beside.
func (f faults) err() error {
	var list []error
	for _, e := range f[:min(len(f), MaxFaults)] {
		list = append(list, e)
	}
	if more := len(f) - MaxFaults; more > 0 {
		first := f[MaxFaults]
		list = append(list, problem(TooMany, "mend these first", "there are %d faults more than the %d that are told", more, MaxFaults).
			at(annotationOf(first.Key)).of(first.Pod, ""))
	}
	return errors.Join(list...)
}

// annotationOf is the annotation of the pod's that a key stands in, if it does.
func annotationOf(key string) string {
	for _, annotation := range []string{NetworksAnnotation, DefaultNetworkAnnotation} {
		if strings.HasPrefix(key, annotation) {
			return annotation
		}
	}
	return ""
}

// keyName is a key of the user's own as it can stand in an error's Key.
func keyName(key string) string {
	if len(key) <= 80 && isReverseDomain("a."+key) {
		return key
	}
	return quote(key)
}

// joinKey is what at makes of two keys.
func joinKey(outer, key string) string { return (&Error{Key: key}).at(outer).Key }
