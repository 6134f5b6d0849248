package delegate

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-sriov/viaduct/internal/cni"
	"github.com/viaduct-sriov/viaduct/internal/network"
)

// A Chain is a CNI network configuration list: plugins that run one after the other, each given the result so far.
type Chain struct {
	Name         string
	CNIVersion   string
	DisableCheck bool
	DisableGC    bool
	Plugins      []PluginConf
}

// A PluginConf is one plugin of a Chain. Its JSON is kept as it is: re-encoding through numbers would round what does
// not fit a float64.
type PluginConf struct {
	Type         string
	IPAM         string // the type of its IPAM plugin; empty if it names none in the usual way
	Capabilities map[string]bool
	raw          map[string]json.RawMessage
}

func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

// ParseChain reads a network configuration list, or the configuration of a single plugin, which is a list of one. Keys
// are matched exactly. The error wraps a *types.Error of code 7.
func ParseChain(data []byte) (*Chain, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, invalid("CNI configuration is not a JSON object: %v", err)
	}
	c := &Chain{}
	var versions []string
	var plugins []json.RawMessage
	for _, f := range []struct {
		key string
		to  any
	}{
		{"name", &c.Name},
		{"cniVersion", &c.CNIVersion},
		{"cniVersions", &versions},
		{"disableCheck", (*flag)(&c.DisableCheck)},
		{"disableGC", (*flag)(&c.DisableGC)},
		{"plugins", &plugins},
	} {
		if err := get(raw, f.key, f.to); err != nil {
			return nil, err
		}
	}
	err := cni.CheckNetworkName(c.Name)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration: %w", err)
	}
	if c.CNIVersion, err = highest(c.CNIVersion, versions); err != nil {
		return nil, err
	}
	if _, list := raw["plugins"]; !list {
		plugins = []json.RawMessage{data}
	}
	if len(plugins) == 0 {
		return nil, invalid("CNI configuration %s has no plugins", c.Name)
	}
	for i, p := range plugins {
		conf, err := parsePlugin(p)
		if err != nil {
			return nil, invalid("CNI configuration %s: plugin %d: %v", c.Name, i+1, err)
		}
		c.Plugins = append(c.Plugins, conf)
	}
	return c, nil
}

func parsePlugin(data []byte) (PluginConf, error) {
	p := PluginConf{}
	if err := json.Unmarshal(data, &p.raw); err != nil || p.raw == nil {
		return p, invalid("not a JSON object")
	}
	if err := get(p.raw, "type", &p.Type); err != nil {
		return p, err
	}
	if err := get(p.raw, "capabilities", &p.Capabilities); err != nil {
		return p, err
	}
	// The type becomes a file name in CNI_PATH.
	if p.Type == "" || p.Type == "." || p.Type == ".." || p.Type != filepath.Base(p.Type) || strings.ContainsRune(p.Type, 0) {
		return p, invalid("key type: %q is not the name of a CNI plugin", p.Type)
	}
	var ipam struct {
		Type string `json:"type"`
	}
	if raw, ok := p.raw["ipam"]; ok && json.Unmarshal(raw, &ipam) == nil { // what else may stand there is the plugin's to judge
		p.IPAM = ipam.Type
	}
	return p, nil
}

func get(raw map[string]json.RawMessage, key string, to any) error {
	v, ok := raw[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(v, to); err != nil {
		return invalid("key %s: %v", key, err)
	}
	return nil
}

// A flag is true, false, or one of these as a string, in any case.
type flag bool

func (f *flag) UnmarshalJSON(data []byte) error {
	switch strings.ToLower(strings.Trim(string(data), `"`)) {
	case "true":
		*f = true
	case "false":
		*f = false
	default:
		return fmt.Errorf("want true or false, not %s", data)
	}
	return nil
}

// highest picks the version to speak: the highest that the configuration offers and this program knows.
func highest(cniVersion string, offered []string) (string, error) {
	if cniVersion == "" && len(offered) == 0 {
		return "0.1.0", nil // the specification's default
	}
	offered = append(slices.Clone(offered), cniVersion)
	best := network.HighestVersion(offered)
	if best == "" {
		return "", types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion %q: this meta-cni speaks up to %s", offered, version.Current()), "")
	}
	return best, nil
}

// atLeast compares versions that highest has accepted.
func (c *Chain) atLeast(v string) bool {
	ok, err := version.GreaterThanOrEqualTo(c.CNIVersion, v)
	return err == nil && ok
}

// declared returns what of values some plugin of the chain declares as a capability: the rest would never be passed on.
func (c *Chain) declared(values map[string]json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, p := range c.Plugins {
		for name, value := range values {
			if p.Capabilities[name] {
				out[name] = value
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// declares reports whether some plugin of the chain declares the capability.
func (c *Chain) declares(capability string) bool {
	for _, p := range c.Plugins {
		if p.Capabilities[capability] {
			return true
		}
	}
	return false
}

// takesIPArg reports whether addresses have to stand in CNI_ARGS, as IP=, where Multus writes them for every network. Whereabouts
// reads them nowhere else. The others read runtimeConfig, and host-local fails if IP= has more than one.
func (c *Chain) takesIPArg() bool {
	return slices.ContainsFunc(c.Plugins, func(p PluginConf) bool { return p.IPAM == "whereabouts" })
}

// stdin is what one plugin reads: its own configuration with the list's name and version, the capability values that it
// declares, and whatever else is to be put in, such as prevResult.
func (c *Chain) stdin(p PluginConf, capabilities map[string]json.RawMessage, extra map[string]any) ([]byte, error) {
	conf := make(map[string]any, len(p.raw)+4)
	for k, v := range p.raw {
		conf[k] = v
	}
	conf["name"], conf["cniVersion"] = c.Name, c.CNIVersion
	passed := map[string]json.RawMessage{}
	for name, value := range capabilities {
		if p.Capabilities[name] {
			passed[name] = value
		}
	}
	if len(passed) > 0 {
		conf["runtimeConfig"] = passed
	}
	maps.Copy(conf, extra)
	data, err := json.Marshal(conf)
	if err != nil {
		return nil, invalid("network %s: plugin %s: encode its configuration: %v", c.Name, p.Type, err)
	}
	return data, nil
}
