package network

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
)

func (s *Selection) setCapability(name string, value any) {
	if s.Capabilities == nil {
		s.Capabilities = map[string]json.RawMessage{}
	}
	s.Capabilities[name] = encode(value)
}

func checkDeviceID(id string) *Error {
	if len(id) > 128 || !isDevice(id) {
		return problem(BadDeviceID, "remove it, and the pod's device is filled in; or write an id such as 0000:02:10.0", "%s is not a device id", quote(id))
	}
	return nil
}

// shortList reads a list, and refuses one of more than most elements before any is looked at.
func shortList(raw json.RawMessage, most int) ([]json.RawMessage, *Error) {
	list, err := decodeList(raw)
	if err == nil && len(list) > most {
		err = problem(TooMany, "name fewer", "the list has %d elements, %d at most", len(list), most)
	}
	return list, err
}

func readStrings(raw json.RawMessage, most int, check func(string) *Error) ([]string, *Error) {
	list, err := shortList(raw, most)
	if err != nil {
		return nil, err
	}
	values := make([]string, 0, len(list))
	for i, raw := range list {
		s, err := decodeString(raw)
		if err == nil {
			err = check(s)
		}
		if err != nil {
			return nil, err.at(fmt.Sprintf("[%d]", i))
		}
		values = append(values, s)
	}
	return values, nil
}

func readIPs(s *Selection, raw json.RawMessage) *Error {
	ips, err := readStrings(raw, MaxIPs, checkIP)
	if err != nil {
		return err
	}
	if len(ips) == 0 {
		return problem(EmptyList, "name at least one address, or remove the key", "the list is empty")
	}
	s.setCapability("ips", ips)
	return nil
}

func readMAC(s *Selection, raw json.RawMessage) *Error {
	mac, err := decodeString(raw)
	if err != nil || mac == "" { // Multus' users leave it empty for "any"
		return err
	}
	if err := checkMAC(mac); err != nil {
		return err
	}
	s.setCapability("mac", mac)
	return nil
}

func readGUID(s *Selection, raw json.RawMessage) *Error {
	guid, err := decodeString(raw)
	if err != nil || guid == "" {
		return err
	}
	if !isGUID(guid) || strings.Trim(guid, "0:") == "" {
		return problem(BadGUID, "write eight bytes in hexadecimal, such as 02:00:00:00:00:00:00:01", "%s is not an InfiniBand GUID", quote(guid))
	}
	s.setCapability("infinibandGUID", guid)
	return nil
}

func readDefaultRoute(s *Selection, raw json.RawMessage) *Error {
	gateways, err := readStrings(raw, MaxGateways, checkGateway)
	if err != nil {
		return err
	}
	// One gateway twice is one route.
	seen := map[netip.Addr]bool{}
	gateways = slices.DeleteFunc(gateways, func(g string) bool {
		addr := netip.MustParseAddr(g).Unmap()
		again := seen[addr]
		seen[addr] = true
		return again
	})
	s.DefaultRoute = gateways // empty and not nil: whatever default route the plugins set
	return nil
}

func readCNIArgs(s *Selection, raw json.RawMessage) *Error {
	args, err := decodeObject(raw)
	if err != nil {
		return err
	}
	s.CNIArgs = args
	return nil
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func readPortMappings(s *Selection, raw json.RawMessage) *Error {
	list, err := shortList(raw, MaxPortMappings)
	if err != nil {
		return err
	}
	mappings := make([]portMapping, 0, len(list))
	for i, raw := range list {
		m, err := readPortMapping(raw)
		if err != nil {
			return err.at(fmt.Sprintf("[%d]", i))
		}
		mappings = append(mappings, m)
	}
	if len(mappings) > 0 {
		s.setCapability("portMappings", mappings)
	}
	return nil
}

func readPortMapping(raw json.RawMessage) (portMapping, *Error) {
	m := portMapping{Protocol: "tcp"}
	o, err := decodeObject(raw)
	if err != nil {
		return m, err
	}
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if isNull(o[key]) {
			continue
		}
		var err *Error
		switch key {
		case "hostPort":
			m.HostPort, err = readPort(o[key])
		case "containerPort":
			m.ContainerPort, err = readPort(o[key])
		case "protocol":
			m.Protocol, err = readProtocol(o[key])
		case "hostIP":
			err = readString(o[key], &m.HostIP, checkAddress)
		default:
			err = problem(UnknownKey, "use hostPort, containerPort, protocol and hostIP", "a port mapping has no such key")
		}
		if err != nil {
			return m, err.at(keyName(key))
		}
	}
	missing := problem(MissingKey, "write a port from 1 to 65535", "the key is missing")
	switch {
	case m.HostPort == 0:
		return m, missing.at("hostPort")
	case m.ContainerPort == 0:
		return m, missing.at("containerPort")
	}
	return m, nil
}

func readPort(raw json.RawMessage) (int, *Error) {
	n, err := readNumber(raw)
	if err == nil && (n < 1 || n > 65535) {
		err = problem(BadPort, "write a port from 1 to 65535", "%d is not a port", n)
	}
	return int(n), err
}

func readProtocol(raw json.RawMessage) (string, *Error) {
	s, err := decodeString(raw)
	if err != nil {
		return "", err
	}
	switch p := strings.ToLower(s); p {
	case "":
		return "tcp", nil
	case "tcp", "udp", "sctp":
		return p, nil
	}
	return "", problem(BadProtocol, "write tcp, udp or sctp", "%s is not a protocol", quote(s))
}

// rateKeys are bandwidth's, in the annotation and in the configuration of the reference plugin.
var rateKeys = []string{"ingressRate", "ingressBurst", "egressRate", "egressBurst"}

func readBandwidth(s *Selection, raw json.RawMessage) *Error {
	o, err := decodeObject(raw)
	if err != nil {
		return err
	}
	rates := map[string]int64{}
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if isNull(o[key]) {
			continue
		}
		if !slices.Contains(rateKeys, key) {
			return problem(UnknownKey, "use ingressRate, ingressBurst, egressRate and egressBurst", "bandwidth has no such key").at(keyName(key))
		}
		n, err := readNumber(o[key])
		if err == nil && n < 0 {
			err = problem(BadRate, "write bits per second, 0 for no limit", "%d is negative", n)
		}
		if err != nil {
			return err.at(key)
		}
		rates[key] = n
	}
	if len(rates) > 0 {
		s.setCapability("bandwidth", rates)
	}
	return nil
}

// readsBandwidth reports whether the plugin is the reference one for rates, and takes the pod's: not those of its own configuration,
// which it prefers.
func readsBandwidth(p plugin) bool {
	own := slices.ContainsFunc(rateKeys, func(key string) bool { return p.conf[key] != nil })
	return p.typ == "bandwidth" && p.capabilities["bandwidth"] && !own
}

// checkBursts refuses what the reference plugin refuses. That says so at DEL as at ADD, and a pod that it has refused once would
// never go.
func checkBursts(bandwidth json.RawMessage) *Error {
	o, err := decodeObject(bandwidth)
	if err != nil {
		return err
	}
	rates := map[string]int64{}
	for key, raw := range o {
		if rates[key], err = readNumber(raw); err != nil {
			return err.at(key)
		}
	}
	const longest = 8*math.MaxUint32 - 1 // in bits; the kernel counts bytes in 32 bits
	for _, way := range []string{"ingress", "egress"} {
		rate, burst := way+"Rate", way+"Burst"
		missing, there := burst, rate
		if rates[rate] == 0 {
			missing, there = rate, burst
		}
		switch {
		case (rates[rate] == 0) != (rates[burst] == 0):
			return problem(BadRate, "write both, in bits, or neither", "it is missing or 0, and %s is not", there).at(missing)
		case rates[burst] > longest:
			return problem(BadRate, fmt.Sprintf("write %d bits at most", int64(longest)), "%d is too large for a burst", rates[burst]).at(burst)
		}
	}
	return nil
}

func readNumber(raw json.RawMessage) (int64, *Error) {
	var n json.Number
	if err := json.Unmarshal(raw, &n); err == nil && raw[0] != '"' {
		if i, err := n.Int64(); err == nil {
			return i, nil
		}
	}
	return 0, problem(WrongType, fmt.Sprintf("write a whole number, %d at most", int64(math.MaxInt64)), "%s is not a whole number", quote(string(raw)))
}
