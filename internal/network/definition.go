package network

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// A Definition is a NetworkAttachmentDefinition, parsed once: read-only, and safe for concurrent use.
type Definition struct {
	Namespace, Name string
	// Resource is the extended resource whose devices the network attaches; empty if it takes none.
	Resource string
	// Err says why the definition cannot be used; nil if it can.
	Err error

	origin  string // where the configuration stands
	key     string // likewise, for errors
	list    object // the list's own keys, without plugins
	plugins []plugin
	config  json.RawMessage // the whole list, as it is when a pod asks for nothing special
}

type plugin struct {
	typ          string
	ipam         string // the IPAM plugin's type
	key          string // where it stands in the configuration, such as plugins[0]; empty for a single plugin
	device       string // a device id that the definition's author wrote
	deviceKey    string // as what
	capabilities map[string]bool
	conf         object
}

// ParseDefinition reads what a NetworkAttachmentDefinition holds: the annotation of the resource, and spec.config. An
// empty config means that the node's disk has the configuration (see OnDisk and WithConfig). It always returns a
// Definition; what is wrong with it is in Err, so that only the pods that use it are told.
func ParseDefinition(namespace, name, resource, config string) *Definition {
	d := &Definition{Namespace: namespace, Name: name, Resource: strings.TrimSpace(resource)}
	if d.Resource != "" && (len(d.Resource) > 317 || !isQualified(d.Resource)) {
		d.fail(problem(BadResource, "write it as in the pod's limits, such as intel.com/sriov", "%s is not a resource's name", quote(d.Resource)).
			at(resourceKey))
		return d
	}
	d.origin, d.key = "the definition's spec.config", "spec.config"
	switch {
	case len(config) > MaxConfig: // before it is copied
		d.fail(tooLong(len(config)).at(d.key))
	case strings.TrimSpace(config) != "":
		d.fail(d.parse([]byte(config)).at(d.key))
	}
	return d
}

// NotAString is what is wrong with a definition whose spec.config is no string, as YAML makes of JSON without quotes.
func NotAString(d *Definition) error {
	return problem(WrongType, "write the JSON as a string, in YAML below config: |", "it is not a string").at("spec.config").of(Pod{}, d.Network())
}

// Network is the definition as "namespace/name".
func (d *Definition) Network() string { return Reference{d.Namespace, d.Name}.String() }

// OnDisk reports whether the definition leaves its configuration to a file on the node.
func (d *Definition) OnDisk() bool { return d.Err == nil && d.config == nil }

// WithConfig returns the definition with a configuration that was read from the node's disk, at path.
func (d *Definition) WithConfig(path string, config []byte) *Definition {
	c := &Definition{Namespace: d.Namespace, Name: d.Name, Resource: d.Resource, origin: "the file " + path, key: "file " + path}
	c.fail(c.parse(config).at(c.key))
	return c
}

func (d *Definition) fail(err *Error) {
	if err != nil {
		d.Err = err.of(Pod{}, d.Network())
	}
}

func (d *Definition) parse(config []byte) *Error {
	list, plugins, err := parseConfig(config)
	if err != nil {
		return err
	}
	if _, named := list["name"]; !named {
		list["name"] = encode(d.Name)
	}
	rendered := render(list, plugins)
	if len(rendered) > MaxConfig { // encoding/json takes six bytes for each <, > and &
		return problem(TooLong, "shorten it; <, > and & take six bytes each there", "as plugins get it, it has %d bytes, %d at most", len(rendered), MaxConfig)
	}
	d.list, d.plugins, d.config = list, plugins, rendered
	return nil
}

// ParseFile reads a configuration from the node's disk that no NetworkAttachmentDefinition stands for. It goes by its own
// name, without a namespace.
func ParseFile(path string, config []byte) *Definition {
	d := &Definition{origin: "the file " + path, key: "file " + path}
	d.fail(d.parse(config).at(d.key))
	if d.Err == nil && d.nameByConfig() == "" {
		d.fail(problem(MissingKey, "give the network a name", "the key is missing").at("name").at(d.key))
	}
	return d
}

// nameByConfig makes the configuration's name the definition's.
func (d *Definition) nameByConfig() string {
	d.Name, _ = decodeString(d.list["name"])
	return d.Name
}

// Config is the whole configuration, as a list, as it is when a pod asks for nothing special; nil if there is none.
func (d *Definition) Config() json.RawMessage { return d.config }

// Capabilities is the union of what the plugins declare, sorted.
func (d *Definition) Capabilities() []string {
	union := map[string]bool{}
	for _, p := range d.plugins {
		maps.Copy(union, p.capabilities)
	}
	return slices.Sorted(maps.Keys(union))
}

// Plugins names the chain's plugins, in order.
func (d *Definition) Plugins() []string {
	types := make([]string, len(d.plugins))
	for i, p := range d.plugins {
		types[i] = p.typ
	}
	return types
}

func tooLong(size int) *Error {
	return problem(TooLong, "shorten it", "it has %d bytes, %d at most", size, MaxConfig)
}

func parseConfig(config []byte) (object, []plugin, *Error) {
	if len(config) > MaxConfig {
		return nil, nil, tooLong(len(config))
	}
	if err := checkJSON(config); err != nil {
		return nil, nil, err
	}
	list, err := decodeObject(config)
	if err != nil {
		return nil, nil, err
	}
	raws, isList, err := splitPlugins(list)
	if err != nil {
		return nil, nil, err
	}
	if err := checkListKeys(list); err != nil {
		return nil, nil, err
	}
	plugins := make([]plugin, 0, len(raws))
	for i, raw := range raws {
		p, err := parsePlugin(raw)
		if isList {
			p.key = fmt.Sprintf("plugins[%d]", i)
		}
		if err != nil {
			return nil, nil, err.at(p.key)
		}
		plugins = append(plugins, p)
	}
	return list, plugins, nil
}

// splitPlugins takes the plugins out of a list, or makes a list of one out of a single plugin's configuration.
func splitPlugins(list object) (raws []json.RawMessage, isList bool, err *Error) {
	if err := canonical(list, "cniVersion", "cniVersions", "name", "plugins"); err != nil {
		return nil, false, err
	}
	dropNulls(list)
	if raw, isList := list["plugins"]; isList {
		delete(list, "plugins")
		raws, err := decodeList(raw)
		switch {
		case err != nil:
			return nil, true, err.at("plugins")
		case len(raws) == 0:
			return nil, true, problem(EmptyList, `write at least one, such as {"type": "bridge"}`, "the list is empty").at("plugins")
		case len(raws) > MaxPlugins:
			return nil, true, problem(TooMany, "chain fewer", "%d plugins, %d at most", len(raws), MaxPlugins).at("plugins")
		}
		return raws, true, nil
	}
	if err := canonical(list, "type"); err != nil {
		return nil, false, err
	}
	if _, single := list["type"]; !single {
		return nil, false, problem(MissingKey, `write {"type": "bridge", …} or {"plugins": [{"type": "bridge", …}]}`, "it has neither type nor plugins")
	}
	conf := maps.Clone(list)
	for key := range list {
		switch key {
		case "name", "cniVersion", "cniVersions":
			delete(conf, key)
		default:
			delete(list, key)
		}
	}
	return []json.RawMessage{encode(conf)}, false, nil
}

// dropNulls takes the list's own keys without a value for absent, as Multus and the CNI library do with most.
func dropNulls(list object) {
	maps.DeleteFunc(list, func(key string, raw json.RawMessage) bool {
		empty := (key == "name" || key == "cniVersion") && string(raw) == `""`
		return empty || isNull(raw)
	})
	if string(list["cniVersions"]) == "[]" {
		delete(list, "cniVersions")
	}
}

func checkListKeys(list object) *Error {
	for _, key := range []string{"disableCheck", "disableGC"} {
		if raw, ok := list[key]; ok && !isFlag(raw) {
			return problem(WrongType, "write true or false", "%s is neither true nor false", quote(string(raw))).at(key)
		}
	}
	if raw, ok := list["name"]; ok {
		name, err := decodeString(raw)
		if err == nil {
			err = checkNetworkName(name)
		}
		if err != nil {
			return err.at("name")
		}
	}
	return checkVersions(list)
}

// checkVersions makes sure that one of the versions that a list offers can be spoken.
func checkVersions(list object) *Error {
	var offered []string
	raw, several := list["cniVersions"]
	if several {
		var err *Error
		if offered, err = readStrings(raw, math.MaxInt, checkVersion); err != nil {
			return err.at("cniVersions")
		}
	}
	key := "cniVersions"
	if raw, ok := list["cniVersion"]; ok {
		v, err := decodeString(raw)
		if err == nil {
			err = checkVersion(v)
		}
		if err != nil {
			return err.at("cniVersion")
		}
		offered, key = append(offered, v), "cniVersion"
	} else if !several {
		list["cniVersion"] = encode("0.1.0") // what the CNI specification says of a configuration without
		return nil
	}
	if HighestVersion(offered) == "" {
		return problem(BadVersion, "write one of these", "%s is no version that this node speaks; it speaks %s", strings.Join(offered, ", "),
			strings.Join(version.All.SupportedVersions(), ", ")).at(key)
	}
	return nil
}

// HighestVersion is the highest of the offered versions of the CNI specification that can be spoken; empty if none can.
func HighestVersion(offered []string) string {
	for _, v := range slices.Backward(version.All.SupportedVersions()) {
		if slices.Contains(offered, v) {
			return v
		}
	}
	return ""
}

func checkVersion(v string) *Error {
	if !isVersion(v) {
		return problem(BadVersion, "write a version of the CNI specification, such as 1.0.0", "%s is not a version", quote(v))
	}
	return nil
}

// isFlag takes true and false, and these as strings, in any case: the CNI library does.
func isFlag(raw json.RawMessage) bool {
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true", "false":
		return true
	}
	return false
}

// reserved are the keys that the runtime fills in, or that decide which program runs.
var reserved = []string{"type", "ipam", "args", "capabilities", "deviceID", "pciBusID", "runtimeConfig", "prevResult"}

func parsePlugin(raw json.RawMessage) (p plugin, err *Error) {
	if p.conf, err = decodeObject(raw); err != nil {
		return p, err
	}
	if err = canonical(p.conf, reserved...); err != nil {
		return p, err
	}
	// These two are the runtime's to say: an author could name another pod's device with them.
	delete(p.conf, "runtimeConfig")
	delete(p.conf, "prevResult")
	if p.typ, err = stringKey(p.conf, "type", checkPluginType); err != nil {
		return p, err
	}
	if p.typ == "" {
		return p, problem(MissingKey, "name a plugin, such as bridge", "the key is missing").at("type")
	}
	if p.capabilities, err = parseCapabilities(p.conf["capabilities"]); err != nil {
		return p, err.at("capabilities")
	}
	if p.ipam, err = parseIPAM(p.conf); err != nil {
		return p, err.at("ipam")
	}
	ids := [2]string{}
	for i, key := range []string{"deviceID", "pciBusID"} {
		if ids[i], err = stringKey(p.conf, key, checkDeviceID); err != nil {
			return p, err
		}
	}
	p.device, p.deviceKey = ids[0], "deviceID"
	if p.device == "" {
		p.device, p.deviceKey = ids[1], "pciBusID"
	}
	if ids[0] != "" && ids[1] != "" && ids[0] != ids[1] {
		return p, problem(TwoDevices, "remove both: the pod's device is filled in, of the resource that the annotation "+ResourceAnnotation+" names",
			"deviceID %s and pciBusID %s are two devices", ids[0], ids[1])
	}
	return p, nil
}

func parseIPAM(conf object) (string, *Error) {
	raw, ok := conf["ipam"]
	if !ok || isNull(raw) {
		return "", nil
	}
	ipam, err := decodeObject(raw)
	if err != nil {
		return "", err
	}
	if err := canonical(ipam, "type"); err != nil {
		return "", err
	}
	conf["ipam"] = encode(ipam)
	return stringKey(ipam, "type", checkPluginType)
}

func parseCapabilities(raw json.RawMessage) (map[string]bool, *Error) {
	if raw == nil || isNull(raw) {
		return nil, nil
	}
	declared := map[string]bool{}
	if err := json.Unmarshal(raw, &declared); err != nil {
		return nil, problem(WrongType, `write {"mac": true}`, "%s is not an object of true and false", quote(string(raw)))
	}
	maps.DeleteFunc(declared, func(_ string, on bool) bool { return !on })
	return declared, nil
}

// stringKey reads an optional string; a missing, null or empty one is "".
func stringKey(o object, key string, check func(string) *Error) (string, *Error) {
	raw, ok := o[key]
	if !ok || isNull(raw) {
		return "", nil
	}
	s, err := decodeString(raw)
	if err == nil && s != "" {
		err = check(s)
	}
	return s, err.at(key)
}

func render(list object, plugins []plugin) json.RawMessage {
	confs := make([]object, len(plugins))
	for i, p := range plugins {
		confs[i] = p.conf
	}
	whole := maps.Clone(list)
	whole["plugins"] = encode(confs)
	return encode(whole)
}
