package network

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// The annotations that this package reads.
const (
	// NetworksAnnotation lists a pod's networks, in the short form or as JSON.
	NetworksAnnotation = "k8s.v1.cni.cncf.io/networks"
	// DefaultNetworkAnnotation names the network that replaces the node's default one for a pod.
	DefaultNetworkAnnotation = "v1.multus-cni.io/default-network"
	// StatusAnnotation is where what a pod got is published.
	StatusAnnotation = "k8s.v1.cni.cncf.io/network-status"
	// ResourceAnnotation, on a definition, names the extended resource whose devices it attaches.
	ResourceAnnotation = "k8s.v1.cni.cncf.io/resourceName"
)

// A Selection is one element of the networks annotation: which definition, and what the pod wants of it.
type Selection struct {
	Namespace, Name string
	// IfName is the interface's name in the pod; empty means by position.
	IfName string
	// DeviceID asks for one certain device of those that the pod has; empty means the next.
	DeviceID string
	// Capabilities are the wanted runtimeConfig values by capability name.
	Capabilities map[string]json.RawMessage
	// CNIArgs go to args.cni of each plugin.
	CNIArgs map[string]json.RawMessage
	// DefaultRoute is as in Attachment.
	DefaultRoute []string
	// IPAMClaim names an IPAMClaim that holds the attachment's addresses.
	IPAMClaim string
	// Key is where this stands, for errors: such as k8s.v1.cni.cncf.io/networks[0].
	Key string
	// FromNode marks what the node's configuration asks for, not the pod.
	FromNode bool
}

// Network is the selection's definition as "namespace/name", empty if it names none.
func (s Selection) Network() string {
	if s.Name == "" {
		return ""
	}
	return s.reference().String()
}

func (s Selection) reference() Reference { return Reference{s.Namespace, s.Name} }

// keyOfCapability is the annotation's key for each capability.
var keyOfCapability = map[string]string{
	"ips": "ips", "mac": "mac", "portMappings": "portMappings", "bandwidth": "bandwidth", "infinibandGUID": "infiniband-guid",
}

// ParseSelections reads a networks annotation in either form. The namespace stands where an element names none. The
// error joins one *Error for each fault; then the selections have what could be read, and no Name where that is wrong.
func ParseSelections(value, namespace string) ([]Selection, error) {
	selections, found := parseSelections(value, namespace)
	return selections, found.err()
}

func parseSelections(value, namespace string) ([]Selection, faults) {
	value = strings.TrimSpace(value)
	if len(value) > MaxAnnotation {
		return nil, faults{problem(TooLong, "ask for fewer networks", "it has %d bytes, %d at most", len(value), MaxAnnotation)}
	}
	if value == "" {
		return nil, nil
	}
	if strings.ContainsAny(value[:1], `[{"`) {
		return parseJSONForm([]byte(value), namespace)
	}
	return parseShortForm(value, namespace)
}

func parseShortForm(value, namespace string) ([]Selection, faults) {
	if n := strings.Count(value, ",") + 1; n > MaxAttachments {
		return nil, faults{problem(TooMany, "ask for fewer networks", "it asks for %d networks, %d at most", n, MaxAttachments)}
	}
	var (
		selections []Selection
		found      faults
	)
	for i, item := range strings.Split(value, ",") {
		s, err := parseShort(strings.TrimSpace(item), namespace)
		found.add(err.at(fmt.Sprintf("[%d]", i)))
		selections = append(selections, s)
	}
	return selections, found
}

func parseShort(item, namespace string) (Selection, *Error) {
	const form = "write [namespace/]name[@interface]"
	s := Selection{Namespace: namespace}
	rest, ifName, named := strings.Cut(item, "@")
	before, after, found := strings.Cut(rest, "/")
	ref := Reference{namespace, before}
	if found {
		ref = Reference{before, after}
	}
	if ref.Name == "" || ref.Namespace == "" {
		return s, problem(NoName, form, "%s names no network", quote(item))
	}
	if err := checkNamespace(ref.Namespace); err != nil {
		return s, err
	}
	if err := checkName(ref.Name); err != nil {
		return s, err
	}
	s.Namespace, s.Name = ref.Namespace, ref.Name
	if named {
		if err := checkIfName(ifName); err != nil {
			return s, err.at("interface").of(Pod{}, s.Network())
		}
		s.IfName = ifName
	}
	return s, nil
}

func parseJSONForm(value []byte, namespace string) ([]Selection, faults) {
	if err := checkJSON(value); err != nil {
		return nil, faults{err}
	}
	if value[0] != '[' {
		return nil, faults{problem(WrongType, `write [{"name": "a-network"}]`, "the JSON form is a list of objects, not %s", quote(string(value)))}
	}
	list, err := decodeList(value)
	if err != nil {
		return nil, faults{err}
	}
	if len(list) > MaxAttachments {
		return nil, faults{problem(TooMany, "ask for fewer networks", "it asks for %d networks, %d at most", len(list), MaxAttachments)}
	}
	var (
		selections []Selection
		found      faults
	)
	for i, raw := range list {
		s, errs := parseElement(raw, namespace)
		found = append(found, errs.at(fmt.Sprintf("[%d]", i))...)
		selections = append(selections, s)
	}
	return selections, found
}

// elementKeys reads each key of the JSON form. Most are the standard's; deviceID and interfaceRequest are Multus' own. It is made
// when it is needed: the CNI plugin links it and never does.
var elementKeys = sync.OnceValue(func() map[string]func(*Selection, json.RawMessage) *Error {
	return map[string]func(*Selection, json.RawMessage) *Error{
		"name":                 func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.Name, checkName) },
		"namespace":            func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.Namespace, checkNamespace) },
		"interface":            func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.IfName, checkIfName) },
		"interfaceRequest":     func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.IfName, checkIfName) },
		"deviceID":             func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.DeviceID, checkDeviceID) },
		"ipam-claim-reference": func(s *Selection, raw json.RawMessage) *Error { return readString(raw, &s.IPAMClaim, checkClaim) },
		"ips":                  readIPs,
		"mac":                  readMAC,
		"infiniband-guid":      readGUID,
		"portMappings":         readPortMappings,
		"bandwidth":            readBandwidth,
		"cni-args":             readCNIArgs,
		"default-route":        readDefaultRoute,
	}
})

func parseElement(raw json.RawMessage, namespace string) (Selection, faults) {
	s := Selection{Namespace: namespace}
	o, err := decodeObject(raw)
	if err != nil {
		return s, faults{err}
	}
	var errs faults
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if len(errs) > MaxFaults {
			break // more would not be told, and each takes memory
		}
		if isNull(o[key]) {
			continue
		}
		read, known := elementKeys()[key]
		if !known {
			if err := checkUnknownKey(key); err != nil {
				errs = append(errs, err.at(keyName(key)))
			}
			continue
		}
		if err := read(&s, o[key]); err != nil {
			errs = append(errs, err.at(key))
		}
	}
	if s.Name == "" && !slices.ContainsFunc(errs, func(err *Error) bool { return err.Key == "name" }) {
		errs = append(errs, problem(MissingKey, "name the NetworkAttachmentDefinition", "the key is missing").at("name"))
	}
	if slices.ContainsFunc(errs, func(err *Error) bool { return err.Key == "name" || err.Key == "namespace" }) {
		s.Name = "" // else it would be taken for another network
	}
	for _, err := range errs {
		if s.Name != "" {
			err.Network = s.Network()
		}
	}
	return s, errs
}

// checkUnknownKey lets other implementations' extensions pass: the standard gives them names with a domain.
func checkUnknownKey(key string) *Error {
	if len(key) <= 253 && isReverseDomain(key) {
		return nil
	}
	remedy := "remove it, or give a key of your own a reverse domain name, such as com.example.key"
	plain := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "-", ""), "_", "") }
	for known := range elementKeys() {
		if len(key) < 32 && strings.EqualFold(plain(known), plain(key)) {
			remedy = "write it " + known
		}
	}
	if key == "gateway" {
		remedy = `the pod's gateway is asked for as "default-route": ["192.0.2.1"]`
	}
	return problem(UnknownKey, remedy, "the standard has no key %s", quote(key))
}

func readString(raw json.RawMessage, to *string, check func(string) *Error) *Error {
	s, err := decodeString(raw)
	if err != nil {
		return err
	}
	if s == "" {
		return nil // as Multus has it: an empty value is none
	}
	if err := check(s); err != nil {
		return err
	}
	*to = s
	return nil
}
