package network

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"unicode"
)

// A NodeConfig is Multus' configuration file, as far as it means something here.
type NodeConfig struct {
	// Policy is namespaceIsolation with globalNamespaces.
	Policy Policy
	// Namespace is multusNamespace: where the definitions are that the node, or a pod's override of its default network,
	// names without a namespace.
	Namespace string
	// Cluster is clusterNetwork: the network that every pod has as eth0. Nil: Delegates' first, or what the runtime would
	// use by itself. Without a namespace its name is an absolute path.
	Cluster *Selection
	// Defaults are defaultNetworks: what every pod gets beside, unless its namespace is one of System.
	Defaults []Selection
	System   []string
	// Delegates are configurations that stand in the file itself: of the default network, then of others for every pod.
	Delegates []*Definition
	// ConfDir holds configurations for definitions without one; BinDir, further plugins. Empty: not said.
	ConfDir, BinDir string
	// StateDir is cniDir, where Multus saved what it attached before this project did. Empty: not said.
	StateDir string
	// ReadyFile is there when the default network is ready. Empty: not said.
	ReadyFile string
	// LogLevel is debug, verbose, error or panic. Empty: not said.
	LogLevel string
	// Ignored are the keys that mean nothing here, sorted.
	Ignored []string
}

// Multus' defaults.
const (
	defaultSystemNamespace = "kube-system"
	defaultGlobalNamespace = "default"
)

// DefaultNodeConfig is what an empty file says.
func DefaultNodeConfig() *NodeConfig {
	return &NodeConfig{Namespace: DefaultNamespace, Policy: Policy{Global: []string{defaultGlobalNamespace}}, System: []string{defaultSystemNamespace}}
}

type nodeKey struct {
	name string
	read func(*nodeParser, json.RawMessage) *Error
}

// nodeKeys reads each key that means something. Order matters: multusNamespace stands before those that need it. A function, since
// a list of functions would be made before main, also where it is not needed.
func nodeKeys() []nodeKey {
	return []nodeKey{
		{"multusNamespace", func(p *nodeParser, raw json.RawMessage) *Error { return readString(raw, &p.Namespace, checkNamespace) }},
		{"namespaceIsolation", func(p *nodeParser, raw json.RawMessage) *Error { return readBool(raw, &p.Policy.Isolated) }},
		{"globalNamespaces", (*nodeParser).readGlobal},
		{"systemNamespaces", (*nodeParser).readSystem},
		{"clusterNetwork", (*nodeParser).readCluster},
		{"defaultNetworks", (*nodeParser).readDefaults},
		{"delegates", (*nodeParser).readDelegates},
		{"confDir", func(p *nodeParser, raw json.RawMessage) *Error { return readString(raw, &p.ConfDir, checkPath) }},
		{"binDir", func(p *nodeParser, raw json.RawMessage) *Error { return readString(raw, &p.BinDir, checkPath) }},
		{"cniDir", func(p *nodeParser, raw json.RawMessage) *Error { return readString(raw, &p.StateDir, checkPath) }},
		{"readinessindicatorfile", func(p *nodeParser, raw json.RawMessage) *Error { return readString(raw, &p.ReadyFile, checkPath) }},
		{"logLevel", (*nodeParser).readLogLevel},
	}
}

// understood are keys that say nothing new: what the file is, and what is found out from the default network's plugins.
var understood = []string{"name", "type", "cniVersion", "capabilities"}

type nodeParser struct {
	*NodeConfig
	name    string
	ignored map[string]bool
}

// ParseNodeConfig reads Multus' configuration file, or its daemon's. The error joins one *Error for each fault.
func ParseNodeConfig(data []byte) (*NodeConfig, error) {
	o, err := nodeObject(data)
	if err != nil {
		return nil, err
	}
	p := &nodeParser{NodeConfig: DefaultNodeConfig(), name: "multus-cni-network", ignored: map[string]bool{}}
	var found faults
	if raw, ok := o["name"]; ok && !isNull(raw) {
		found.add(readString(raw, &p.name, checkNetworkName).at("name"))
	}
	for _, k := range nodeKeys() {
		if raw, ok := o[k.name]; ok && !isNull(raw) {
			found.add(k.read(p, raw).at(k.name))
		}
		delete(o, k.name)
	}
	for key := range o {
		p.ignored[key] = p.ignored[key] || !slices.Contains(understood, key)
	}
	if p.Cluster != nil && len(p.Delegates) > 0 { // as Multus has it
		p.Delegates, p.ignored["delegates"] = nil, true
	}
	for _, key := range slices.Sorted(maps.Keys(p.ignored)) {
		if p.ignored[key] {
			p.Ignored = append(p.Ignored, key)
		}
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return p.NodeConfig, nil
}

// nodeObject finds the keys: in the document itself, or in the one plugin of a list.
func nodeObject(data []byte) (object, *Error) {
	if len(data) > MaxConfig {
		return nil, tooLong(len(data))
	}
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	o, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	if raw, isList := o["plugins"]; isList {
		plugins, err := decodeList(raw)
		if err == nil && len(plugins) != 1 {
			err = problem(TooMany, "keep the meta plugin alone", "%d plugins, want one", len(plugins))
		}
		if err != nil {
			return nil, err.at("plugins")
		}
		if o, err = decodeObject(plugins[0]); err != nil {
			return nil, err.at("plugins[0]")
		}
	}
	names := slices.Clone(understood)
	for _, k := range nodeKeys() {
		names = append(names, k.name)
	}
	return o, canonical(o, names...)
}

func readBool(raw json.RawMessage, to *bool) *Error {
	if err := json.Unmarshal(raw, to); err != nil {
		return problem(WrongType, "write true or false", "%s is neither true nor false", quote(string(raw)))
	}
	return nil
}

func checkPath(s string) *Error {
	if !path.IsAbs(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return problem(BadPath, "write the path from the root on", "%s is not an absolute path", quote(s))
	}
	return nil
}

func (p *nodeParser) readGlobal(raw json.RawMessage) *Error {
	s, err := decodeString(raw)
	if err != nil || s == "" {
		return err
	}
	p.Policy.Global, err = parseNamespaces(s)
	return err
}

func (p *nodeParser) readSystem(raw json.RawMessage) (err *Error) {
	system, err := readStrings(raw, math.MaxInt, checkNamespace)
	if len(system) > 0 {
		p.System = system
	}
	return err
}

func (p *nodeParser) readLogLevel(raw json.RawMessage) *Error {
	s, err := decodeString(raw)
	if err != nil {
		return err
	}
	switch level := strings.ToLower(s); level {
	case "debug", "verbose", "error", "panic":
		p.LogLevel = level
	case "":
	default: // Multus says that it does not know it, and goes on
		p.ignored["logLevel"] = true
	}
	return nil
}

func (p *nodeParser) readCluster(raw json.RawMessage) *Error {
	s, err := decodeString(raw)
	if err != nil || s == "" {
		return err
	}
	cluster, err := p.nodeNetwork(s, "clusterNetwork")
	p.Cluster = &cluster
	return err
}

func (p *nodeParser) readDefaults(raw json.RawMessage) *Error {
	names, err := readStrings(raw, math.MaxInt, func(string) *Error { return nil })
	if err != nil {
		return err
	}
	if len(names) > MaxAttachments {
		return problem(TooMany, "give pods fewer networks", "%d networks, %d at most", len(names), MaxAttachments)
	}
	for i, name := range names {
		at := fmt.Sprintf("[%d]", i)
		s, err := p.nodeNetwork(name, "defaultNetworks"+at)
		if err != nil {
			return err.at(at)
		}
		p.Defaults = append(p.Defaults, s)
	}
	return nil
}

// nodeNetwork is a network by any of its names: with a slash, the path of a file or a folder; else a definition's name, or
// that of a configuration on disk.
func (p *nodeParser) nodeNetwork(name, key string) (Selection, *Error) {
	s := Selection{Namespace: p.Namespace, Name: name, Key: key, FromNode: true}
	if strings.Contains(name, "/") {
		s.Namespace = ""
		return s, checkPath(name)
	}
	return s, checkNetworkName(name)
}

func (p *nodeParser) readDelegates(raw json.RawMessage) *Error {
	confs, err := decodeList(raw)
	if err != nil {
		return err
	}
	if len(confs) > MaxAttachments {
		return problem(TooMany, "give pods fewer networks", "%d networks, %d at most", len(confs), MaxAttachments)
	}
	for i, conf := range confs {
		d := &Definition{Name: p.name, origin: "the node's configuration", key: delegateKey(i)}
		if err := d.parse(conf); err != nil {
			return err.at(fmt.Sprintf("[%d]", i))
		}
		d.nameByConfig()
		p.Delegates = append(p.Delegates, d)
	}
	return nil
}

// Apply adds to what a pod asks for what the node gives it, and makes sure that the pod may ask for it. The error joins one
// *Error for each fault; Wants is whole all the same, for Explain.
func (c *NodeConfig) Apply(w Wants) (Wants, error) {
	for i := 1; i < len(c.Delegates); i++ {
		key := delegateKey(i)
		w.Node = append(w.Node, Selection{Name: key, Key: key, FromNode: true})
	}
	if !slices.Contains(c.System, w.Pod.Namespace) {
		w.Node = append(w.Node, c.Defaults...)
	}
	found := c.Policy.check(w)
	if n := len(w.extra()); n > MaxAttachments {
		found.add(problem(TooMany, "ask for fewer networks", "the pod asks for %d networks, the node gives it %d: %d at most together",
			len(w.Networks), len(w.Node), MaxAttachments).at(NetworksAnnotation).of(w.Pod, ""))
	}
	_, taken := w.interfaceNames()
	for _, err := range taken {
		found.add(err)
	}
	w.faults = slices.Concat(w.faults, found)
	return w, found.err()
}

func delegateKey(i int) string { return fmt.Sprintf("delegates[%d]", i) }

// Delegate is the definition that ref means, if it means one of Delegates; else nil.
func (c *NodeConfig) Delegate(ref Reference) *Definition {
	for i, d := range c.Delegates {
		if ref == (Reference{Name: delegateKey(i)}) {
			return d
		}
	}
	return nil
}

// Names reports whether the configuration itself names ref: it may then also be a configuration on disk.
func (c *NodeConfig) Names(ref Reference) bool {
	return slices.ContainsFunc(append(c.cluster(), c.Defaults...), func(s Selection) bool { return s.reference() == ref })
}

func (c *NodeConfig) cluster() []Selection {
	if c.Cluster == nil {
		return nil
	}
	return []Selection{*c.Cluster}
}

// HasDefault reports whether the configuration says which network is the default one.
func (c *NodeConfig) HasDefault() bool { return c.Cluster != nil || len(c.Delegates) > 0 }

// DefaultReference is the default network, if HasDefault.
func (c *NodeConfig) DefaultReference() Reference {
	if c.Cluster != nil {
		return c.Cluster.reference()
	}
	return Reference{Name: delegateKey(0)}
}

// CheckDefault says why d, which DefaultReference means, cannot be every pod's default network. The error is an *Error.
func (c *NodeConfig) CheckDefault(d *Definition) error {
	ref := c.DefaultReference()
	s := Selection{Namespace: ref.Namespace, Name: ref.Name, Key: delegateKey(0), FromNode: true}
	if c.Cluster != nil {
		s = *c.Cluster
	}
	d, bad := Wants{}.definition(s, map[Reference]*Definition{ref: d})
	if bad != nil {
		return bad
	}
	if d.Resource != "" || checkNeedsNone(d, &stock{}) != nil {
		return problem(NoResource, "name a network without devices; pods that have them can take this one by the annotation "+DefaultNetworkAnnotation,
			"every pod would need a device for it, and most request none").at(s.Key).of(Pod{}, d.Network())
	}
	return nil
}

// Given names the networks that pods get without asking for them.
func (c *NodeConfig) Given() []string {
	var names []string
	for i := 1; i < len(c.Delegates); i++ {
		names = append(names, c.Delegates[i].Name)
	}
	for _, s := range c.Defaults {
		names = append(names, s.Name)
	}
	return names
}

// Spared are the namespaces whose pods get none of Given.
func (c *NodeConfig) Spared() []string {
	if len(c.Delegates) > 1 || len(c.Defaults) == 0 {
		return nil
	}
	return c.System
}
