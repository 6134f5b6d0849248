package pool

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
)

// What a file may have at most. A ConfigMap is 1 MiB at most, and a kubelet is not made for more resources; the bounds keep
// a file of nonsense from keeping the daemon busy.
const (
	maxSize      = 1 << 20 // bytes
	maxPools     = 512
	maxSelectors = 2048 // of all pools together
	maxFaults    = 100  // that are said
)

// Parse reads a configuration file. prefix is the resource prefix of pools that name none. What is wrong comes as Faults,
// all of it at once; then the Config is nil. What is only odd, and works, comes as warnings.
func Parse(data []byte, prefix string) (config *Config, warnings Faults, err error) {
	if len(data) > maxSize {
		return nil, nil, Faults{{Line: 1, Message: fmt.Sprintf("it has %d bytes: want %d at most", len(data), maxSize)}}
	}
	root, syntax := parseTree(data)
	if syntax != nil {
		return nil, nil, Faults{*syntax}
	}
	p := &parser{prefix: prefix}
	config = p.config(root)
	p.unreachable(config)
	slices.SortStableFunc(p.faults, byLine)
	slices.SortStableFunc(p.warnings, byLine)
	if len(p.faults) > 0 {
		return nil, p.warnings.most(), p.faults.most()
	}
	return config, p.warnings.most(), nil
}

// most leaves out what nobody would read.
func (f Faults) most() Faults {
	if len(f) <= maxFaults {
		return f
	}
	more := Fault{Line: f[maxFaults].Line, Message: fmt.Sprintf("and %d more from here on", len(f)-maxFaults)}
	return append(f[:maxFaults:maxFaults], more)
}

type parser struct {
	prefix           string
	faults, warnings Faults
	selectorsAt      [][]place // of each pool; none of one with a fault
	selectorCount    int
}

// A place is where in the file something was.
type place struct {
	line int
	path string
}

func (p *parser) fault(n *node, path, format string, args ...any) {
	p.faults = append(p.faults, Fault{n.line, path, fmt.Sprintf(format, args...)})
}

func (p *parser) warn(at place, format string, args ...any) {
	p.warnings = append(p.warnings, Fault{at.line, at.path, fmt.Sprintf(format, args...)})
}

func (p *parser) config(root *node) *Config {
	c := &Config{}
	fields := p.object(root, "", "resourceList")
	list, ok := fields["resourceList"]
	if !ok {
		// The SR-IOV network operator writes null for a node that has no pools.
		if root.has("resourceList") {
			p.warn(place{root.line, "resourceList"}, "it has no pools: nothing is offered")
		} else if len(p.faults) == 0 {
			p.fault(root, "", "it has no resourceList")
		}
		return c
	}
	items := p.list(list, "resourceList")
	if len(items) > maxPools {
		p.fault(list, "resourceList", "it has %d pools: want %d at most", len(items), maxPools)
		return c
	}
	for i, item := range items {
		path := fmt.Sprintf("resourceList[%d]", i)
		p.selectorsAt = append(p.selectorsAt, nil)
		before := len(p.faults)
		pool := p.pool(item, path)
		p.unique(c.Pools, pool.Resource, item, path)
		c.Pools = append(c.Pools, pool)
		if len(p.faults) > before {
			p.selectorsAt[i] = nil
		}
	}
	return c
}

// unique compares a pool's name with those before it.
func (p *parser) unique(before []Pool, resource string, n *node, path string) {
	if resource == "" {
		return
	}
	for i := range before {
		switch other := before[i].Resource; {
		case other == resource:
			p.fault(n, path, "%s is already the resource of resourceList[%d]: put both selectors into a list in one entry", resource, i)
			return
		case variable(other) == variable(resource):
			p.warn(place{n.line, path}, "a pod with %s and with %s sees only one of them: both are told in %s", other, resource, variable(resource))
			return
		}
	}
}

// variable is the name by which a container learns of its devices.
func variable(resource string) string {
	return "PCIDEVICE_" + strings.ToUpper(strings.NewReplacer(".", "_", "/", "_", "-", "_").Replace(resource))
}

var poolKeys = []string{
	"resourceName", "resourcePrefix", "deviceType", "excludeTopology", "selectors", "additionalInfo",
	"allocationPolicy", "healthCheck", "allowAddressed",
}

func (p *parser) pool(n *node, path string) Pool {
	pool := Pool{Type: NetDevice}
	fields := p.object(n.without(p.leftover(n, path)), path, poolKeys...)
	if fields == nil {
		return pool
	}
	pool.Resource = p.resource(n, path, fields)
	if f, ok := fields["deviceType"]; ok {
		pool.Type = DeviceType(p.oneOf(f, path+".deviceType", string(NetDevice), string(Accelerator), string(AuxNetDevice)))
	}
	pool.ExcludeTopology = p.boolean(fields, path, "excludeTopology")
	pool.AllowAddressed = p.boolean(fields, path, "allowAddressed")
	if f, ok := fields["allocationPolicy"]; ok {
		pool.Spread = p.oneOf(f, path+".allocationPolicy", "pack", "spread") == "spread"
	}
	if f, ok := fields["healthCheck"]; ok {
		pool.PFLink = p.boolean(p.object(f, path+".healthCheck", "pfLink"), path+".healthCheck", "pfLink")
	}
	if f, ok := fields["additionalInfo"]; ok {
		pool.AdditionalInfo = p.info(f, path+".additionalInfo", pool.Type)
	}
	pool.Selectors = p.selectors(n, fields["selectors"], path+".selectors", pool.Type)
	return pool
}

var (
	// What the kubelet takes as the part of a resource name after the slash. The peer takes a leading or trailing - and
	// _, too, which no kubelet registers.
	resourceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	// A DNS subdomain.
	resourcePrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// CheckPrefix reports whether a resource prefix, such as intel.com, can be one.
func CheckPrefix(prefix string) error {
	if len(prefix) > 200 || !resourcePrefix.MatchString(prefix) {
		return fmt.Errorf("%q is no resource prefix: want a DNS name in lower case such as intel.com", prefix)
	}
	if prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io") || strings.HasPrefix(prefix, "requests.") {
		return fmt.Errorf("%q is no prefix for extended resources: Kubernetes keeps it for itself", prefix)
	}
	return nil
}

func (p *parser) resource(n *node, path string, fields map[string]*node) string {
	prefix := p.prefix
	if f, ok := fields["resourcePrefix"]; ok {
		if s := p.text(f, path+".resourcePrefix"); s != "" { // empty: the default, as with the peer
			prefix = s
			if err := CheckPrefix(s); err != nil {
				p.fault(f, path+".resourcePrefix", "%v", err)
			}
		}
	}
	f, ok := fields["resourceName"]
	if !ok {
		p.fault(n, path, "it has no resourceName")
		return ""
	}
	name := p.text(f, path+".resourceName")
	if _, isText := f.value.(string); isText && !resourceName.MatchString(name) {
		p.fault(f, path+".resourceName", "%q cannot be a resource: want letters, digits, - and _, 63 at most, with a letter or digit at both ends", name)
		return ""
	}
	return prefix + "/" + name
}

func (p *parser) selectors(pool *node, n *node, path string, kind DeviceType) []Selector {
	if n == nil {
		p.fault(pool, path, "it is missing: without it the pool would take every device. Name at least one key, such as \"vendors\": [\"8086\"]")
		return nil
	}
	items, isList := n.value.([]*node)
	if !isList {
		p.noteSelector(n, path)
		return []Selector{p.selector(n, path, kind)}
	}
	if len(items) == 0 {
		p.fault(n, path, "the list is empty: the pool could have no device")
	}
	if p.selectorCount+len(items) > maxSelectors {
		p.fault(n, path, "the file has more than %d selectors", maxSelectors)
		return nil
	}
	var all []Selector
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		p.noteSelector(item, at)
		all = append(all, p.selector(item, at, kind))
	}
	return all
}

func (p *parser) noteSelector(n *node, path string) {
	last := len(p.selectorsAt) - 1
	p.selectorsAt[last] = append(p.selectorsAt[last], place{n.line, path})
	p.selectorCount++
}

var selectorKeys = map[DeviceType][]string{
	NetDevice: {
		"vendors", "devices", "drivers", "pciAddresses", "acpiIndexes", "pfNames", "rootDevices", "linkTypes", "ddpProfiles",
		"pKeys", "isRdma", "needVhostNet", "vdpaType",
	},
	Accelerator:  {"vendors", "devices", "drivers", "pciAddresses", "acpiIndexes"},
	AuxNetDevice: {"vendors", "devices", "drivers", "pfNames", "rootDevices", "linkTypes", "isRdma", "needVhostNet", "auxTypes"},
}

func (p *parser) selector(n *node, path string, kind DeviceType) Selector {
	if selectorKeys[kind] == nil {
		kind = NetDevice // its fault is known already; look on
	}
	fields := p.objectFor(n, path, string(kind), selectorKeys[kind])
	if fields == nil {
		return Selector{}
	}
	each := func(key string, check func(string) (string, error)) []string {
		return p.values(fields, path, key, check)
	}
	s := Selector{
		Vendors:      each("vendors", hexID),
		Devices:      each("devices", hexID),
		Drivers:      each("drivers", nonEmpty),
		PCIAddresses: each("pciAddresses", fullAddress),
		ACPIIndexes:  each("acpiIndexes", decimal),
		LinkTypes:    each("linkTypes", linkType),
		DDPProfiles:  each("ddpProfiles", nonEmpty),
		PKeys:        each("pKeys", partitionKey),
		AuxTypes:     each("auxTypes", auxType),
		PFNames:      p.ranged(fields, path, "pfNames", nonEmpty),
		RootDevices:  p.ranged(fields, path, "rootDevices", fullAddress),
		IsRDMA:       p.boolean(fields, path, "isRdma"),
		NeedVhostNet: p.boolean(fields, path, "needVhostNet"),
	}
	if f, ok := fields["vdpaType"]; ok && f.value != "" {
		s.VDPAType = p.oneOf(f, path+".vdpaType", "vhost", "virtio")
	}
	if s.IsRDMA && s.VDPAType != "" {
		p.fault(fields["vdpaType"], path+".vdpaType", "it excludes isRdma: a device is offered as one or the other")
	}
	if kind == AuxNetDevice && len(s.AuxTypes) == 0 {
		p.fault(n, path, "auxTypes is missing: an auxNetDevice pool must say which, such as [\"sf\"]")
	}
	return s
}

// ranged reads entries such as ens785f0#0-3,5,7.
func (p *parser) ranged(fields map[string]*node, path, key string, check func(string) (string, error)) []Ranged {
	var all []Ranged
	for i, item := range p.items(fields, path, key) {
		at := fmt.Sprintf("%s.%s[%d]", path, key, i)
		text, ok := item.value.(string)
		if !ok {
			p.fault(item, at, "want a string, not %s", item.kind())
			continue
		}
		pf, list, hasRanges := strings.Cut(text, "#")
		pf, err := check(pf)
		if err != nil {
			p.fault(item, at, "%v", err)
			continue
		}
		r := Ranged{PF: pf}
		if hasRanges {
			for part := range strings.SplitSeq(list, ",") {
				x, err := parseRange(strings.TrimSpace(part))
				if err != nil {
					p.fault(item, at, "%v", err)
				}
				r.Ranges = append(r.Ranges, x)
			}
		}
		all = append(all, r)
	}
	return all
}

func parseRange(s string) (Range, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	// ParseUint takes no sign, and 16 bits are what the SR-IOV capability has for the number of VFs.
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil {
		return Range{}, fmt.Errorf("%q is no VF index and no range: want such as ens785f0#0-3,5,7", s)
	}
	if a > b {
		return Range{}, fmt.Errorf("the range %q ends before it starts", s)
	}
	return Range{int(a), int(b)}, nil
}

func nonEmpty(s string) (string, error) {
	if strings.TrimSpace(s) == "" {
		return "", fmt.Errorf("it is empty")
	}
	return s, nil
}

func fullAddress(s string) (string, error) {
	a, err := pci.ParseAddress(s)
	return a.String(), err
}

var hexPattern = regexp.MustCompile(`^[0-9a-f]{4}$`)

func hexID(s string) (string, error) {
	id := strings.ToLower(s)
	if bare, ok := strings.CutPrefix(id, "0x"); ok && hexPattern.MatchString(bare) {
		return "", fmt.Errorf("%q: leave the 0x out", s)
	}
	if !hexPattern.MatchString(id) {
		return "", fmt.Errorf("%q is no PCI id: want four hexadecimal digits such as 8086", s)
	}
	return id, nil
}

func decimal(s string) (string, error) {
	if _, err := strconv.ParseUint(s, 10, 32); err != nil {
		return "", fmt.Errorf("%q is no ACPI index: want a number in a string such as \"101\"", s)
	}
	return s, nil
}

func linkType(s string) (string, error) {
	switch s {
	case "ether", "infiniband":
		return s, nil
	}
	return "", fmt.Errorf("%q is no link type: want ether or infiniband", s)
}

func auxType(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, "./ ") {
		return "", fmt.Errorf("%q is no type of auxiliary device: want such as sf", s)
	}
	return s, nil
}

func partitionKey(s string) (string, error) {
	bare, ok := strings.CutPrefix(strings.ToLower(s), "0x")
	key, err := strconv.ParseUint(bare, 16, 16)
	if !ok || err != nil {
		return "", fmt.Errorf("%q is no InfiniBand partition key: want such as 0x8001", s)
	}
	return fmt.Sprintf("0x%04x", key), nil // as the kernel writes it
}
