package sriov

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/viaduct-sriov/viaduct/pkg/pci"
	"github.com/viaduct-sriov/viaduct/pkg/vf"
)

// A Config is a network definition's answer to: which VF, and how is it to be set. It is checked, without a look at the
// machine: what Parse lets through may still not be a VF.
type Config struct {
	CNIVersion string
	Network    string
	Pod        string // namespace/name, as CNI_ARGS says; for the log
	Device     pci.Address

	MAC        *vf.MAC
	VLAN       *vf.VLAN
	SpoofCheck *bool
	Trust      *bool
	LinkState  *vf.LinkState
	// The two rates are Mbit/s; the kernel sets them together, so the missing one is taken from the VF.
	MinTxRate, MaxTxRate *uint32
	MTU                  int // 0: leave it

	IPAM  string // the IPAM plugin's type; empty: no addresses
	DNS   types.DNS
	Valid []types.GCAttachment // GC only
	// GCNamed says that the runtime gave the list of valid attachments: without it, GC cannot know what to remove.
	GCNamed bool

	LogLevel, LogFile string
}

// input is the network definition as it is written.
type input struct {
	CNIVersion string     `json:"cniVersion"`
	Name       string     `json:"name"`
	IPAM       types.IPAM `json:"ipam"`
	DNS        types.DNS  `json:"dns"`

	DeviceID  string  `json:"deviceID"`
	PCIBusID  string  `json:"pciBusID"`
	VLAN      *int64  `json:"vlan"`
	VLANQoS   *int64  `json:"vlanQoS"`
	VLANProto *string `json:"vlanProto"`
	MAC       string  `json:"mac"`
	SpoofChk  *string `json:"spoofchk"`
	Trust     *string `json:"trust"`
	LinkState *string `json:"link_state"`
	MinTxRate *int64  `json:"min_tx_rate"`
	MaxTxRate *int64  `json:"max_tx_rate"`
	MTU       *int64  `json:"mtu"`
	LogLevel  string  `json:"logLevel"`
	LogFile   string  `json:"logFile"`

	AllowPodOverrides []string `json:"allowPodOverrides"`

	RuntimeConfig struct {
		DeviceID string `json:"deviceID"`
		MAC      string `json:"mac"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI map[string]json.RawMessage `json:"cni"`
	} `json:"args"`
	Valid  *[]types.GCAttachment `json:"cni.dev/valid-attachments"`
	Legacy *[]types.GCAttachment `json:"cni.dev/attachments"`
}

// overridable are the keys that a network may leave to its pods.
var overridable = []string{"vlan", "vlanQoS", "vlanProto", "spoofchk", "trust", "link_state", "min_tx_rate", "max_tx_rate", "mtu"}

// Parse reads a network definition and CNI_ARGS. The error is a *types.Error with all that is wrong: code 6 for what is
// not JSON, 4 for CNI_ARGS, 7 for the rest. A missing device is no error here: DEL and GC do without, see NeedDevice.
func Parse(stdin []byte, cniArgs string) (*Config, error) {
	in, err := decode(stdin)
	if err != nil {
		return nil, err
	}
	args, err := parseArgs(cniArgs)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+err.Error(), "")
	}
	c := &Config{
		CNIVersion: in.CNIVersion, Network: in.Name, IPAM: in.IPAM.Type, DNS: in.DNS, LogLevel: in.LogLevel, LogFile: in.LogFile,
	}
	if c.CNIVersion == "" {
		c.CNIVersion = "0.1.0" // a definition of before the field was there
	}
	if pod := args["K8S_POD_NAME"]; pod != "" {
		c.Pod = args["K8S_POD_NAMESPACE"] + "/" + pod
	}
	for _, list := range []*[]types.GCAttachment{in.Valid, in.Legacy} {
		if list != nil {
			c.Valid, c.GCNamed = *list, true
			break
		}
	}
	err = errors.Join(c.setDevice(in), c.setMAC(in, args["MAC"]), c.setVLAN(in), c.setSwitches(in), c.setRates(in), c.setMTU(in))
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %q: %s", c.Network, oneLine(err)), "")
	}
	return c, nil
}

// ParseForDel reads what DEL needs of a definition that Parse refuses. ADD refused it too, but the runtime calls DEL all
// the same, again and again: a pod whose DEL fails never goes. What is wrong with the rest is in fault.
func ParseForDel(stdin []byte, cniArgs string) (c *Config, fault, err error) {
	c, fault = Parse(stdin, cniArgs)
	if fault == nil {
		return c, nil, nil
	}
	var in struct {
		CNIVersion, Name, IPAM, DeviceID, PCIBusID, RuntimeConfig any
	}
	if err := json.Unmarshal(stdin, &in); err != nil {
		return nil, nil, fault
	}
	c = &Config{CNIVersion: text(in.CNIVersion), Network: text(in.Name), IPAM: text(member(in.IPAM, "type"))}
	// One that is no address leaves it empty: the VF is then found by its owner.
	c.Device, _ = pci.ParseAddress(cmp.Or(text(member(in.RuntimeConfig, "deviceID")), text(in.DeviceID), text(in.PCIBusID)))
	return c, fault, nil
}

// text is a value that should be a string; empty if it is none.
func text(value any) string {
	s, _ := value.(string)
	return s
}

// member is what an object has under a name; nil if it is no object.
func member(value any, name string) any {
	object, _ := value.(map[string]any)
	return object[name]
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func decode(stdin []byte) (*input, error) {
	in := &input{}
	if err := unmarshal(stdin, in); err != nil {
		return nil, err
	}
	// A pod's cni-args count only where the network says so: a pod must not switch off its own spoof check.
	allowed := map[string]json.RawMessage{}
	for _, key := range in.AllowPodOverrides {
		if !slices.Contains(overridable, key) {
			return nil, types.NewError(types.ErrInvalidNetworkConfig,
				fmt.Sprintf("network %q: allowPodOverrides: %q cannot be left to pods, only %s can", in.Name, key, strings.Join(overridable, ", ")), "")
		}
		if value, ok := in.Args.CNI[key]; ok {
			allowed[key] = value
		}
	}
	if len(allowed) == 0 {
		return in, nil
	}
	overrides, err := json.Marshal(allowed)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "args.cni: "+err.Error(), "")
	}
	return in, unmarshal(overrides, in)
}

func unmarshal(data []byte, in *input) error {
	err := json.Unmarshal(data, in)
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network definition: %s: got %s, want %s", wrong.Field, wrong.Value, jsonName(wrong)), "")
	}
	return types.NewError(types.ErrDecodingFailure, "network definition: "+err.Error(), "")
}

func jsonName(wrong *json.UnmarshalTypeError) string {
	switch k := wrong.Type.Kind().String(); {
	case strings.HasPrefix(k, "int"):
		return "a whole number"
	case k == "string":
		return "a string"
	case k == "slice":
		return "a list"
	}
	return "an object"
}

// parseArgs reads CNI_ARGS, "KEY=value;KEY=value".
func parseArgs(s string) (map[string]string, error) {
	args := map[string]string{}
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no KEY=value", pair)
		}
		args[key] = value
	}
	return args, nil
}

func (c *Config) setDevice(in *input) error {
	for _, from := range []struct{ key, value string }{
		{"runtimeConfig.deviceID", in.RuntimeConfig.DeviceID},
		{"deviceID", in.DeviceID},
		{"pciBusID", in.PCIBusID},
	} {
		if from.value == "" {
			continue
		}
		address, err := pci.ParseAddress(from.value)
		if err != nil {
			return fmt.Errorf("%s: %w", from.key, err)
		}
		c.Device = address
		return nil
	}
	return nil
}

// NeedDevice is the error of a definition that names no VF, nil if it names one.
func (c *Config) NeedDevice() error {
	if c.Device != (pci.Address{}) {
		return nil
	}
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("network %q: no VF was given: deviceID is missing", c.Network),
		"either the NetworkAttachmentDefinition lacks the annotation k8s.v1.cni.cncf.io/resourceName, "+
			"or no container of the pod requests that resource in resources.requests and resources.limits")
}

func (c *Config) setMAC(in *input, fromArgs string) error {
	for _, from := range []struct{ key, value string }{
		{"runtimeConfig.mac", in.RuntimeConfig.MAC},
		{"MAC in CNI_ARGS", fromArgs},
		{"mac", in.MAC},
	} {
		if from.value == "" {
			continue
		}
		mac, err := vf.ParseMAC(from.value)
		if err != nil {
			return fmt.Errorf("%s: %w", from.key, err)
		}
		if !mac.IsUnicast() {
			return fmt.Errorf("%s: %v is no unicast address", from.key, mac)
		}
		c.MAC = &mac
		return nil
	}
	return nil
}

func (c *Config) setVLAN(in *input) error {
	var errs []error
	id, err := inRange("vlan", in.VLAN, 0, 4094)
	errs = append(errs, err)
	qos, err := inRange("vlanQoS", in.VLANQoS, 0, 7)
	errs = append(errs, err)
	proto := vf.Proto8021Q
	if in.VLANProto != nil {
		switch strings.ToLower(*in.VLANProto) {
		case "802.1q", "":
		case "802.1ad":
			proto = vf.Proto8021AD
		default:
			errs = append(errs, fmt.Errorf("vlanProto: %q is neither 802.1q nor 802.1ad", *in.VLANProto))
		}
	}
	if id == 0 && qos != 0 {
		errs = append(errs, errors.New("vlanQoS: it needs a vlan that is not 0"))
	}
	if id == 0 && proto == vf.Proto8021AD {
		errs = append(errs, errors.New("vlanProto: 802.1ad needs a vlan that is not 0"))
	}
	if in.VLAN != nil {
		c.VLAN = &vf.VLAN{ID: uint16(id), QoS: uint8(qos), Proto: proto}
	}
	return errors.Join(errs...)
}

func (c *Config) setSwitches(in *input) error {
	var errs []error
	onOff := func(key string, value *string) *bool {
		if value == nil || *value == "" {
			return nil
		}
		if *value != "on" && *value != "off" {
			errs = append(errs, fmt.Errorf("%s: %q is neither on nor off", key, *value))
		}
		return new(*value == "on")
	}
	c.SpoofCheck = onOff("spoofchk", in.SpoofChk)
	c.Trust = onOff("trust", in.Trust)
	if in.LinkState != nil && *in.LinkState != "" {
		states := []string{"auto", "enable", "disable"}
		i := slices.Index(states, *in.LinkState)
		if i < 0 {
			errs = append(errs, fmt.Errorf("link_state: %q is none of auto, enable, disable", *in.LinkState))
		}
		c.LinkState = new(vf.LinkState(i))
	}
	return errors.Join(errs...)
}

func (c *Config) setRates(in *input) error {
	const most = 1<<32 - 2
	lo, err1 := inRange("min_tx_rate", in.MinTxRate, 0, most)
	hi, err2 := inRange("max_tx_rate", in.MaxTxRate, 0, most)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if in.MinTxRate != nil {
		c.MinTxRate = new(uint32(lo))
	}
	if in.MaxTxRate != nil {
		c.MaxTxRate = new(uint32(hi))
	}
	if in.MinTxRate != nil && in.MaxTxRate != nil && hi != 0 && lo > hi {
		return fmt.Errorf("min_tx_rate: %d is more than max_tx_rate %d", lo, hi)
	}
	return nil
}

func (c *Config) setMTU(in *input) error {
	mtu, err := inRange("mtu", in.MTU, 68, 65535)
	c.MTU = int(mtu)
	return err
}

func inRange(key string, value *int64, low, high int64) (int64, error) {
	if value == nil {
		return 0, nil
	}
	if *value < low || *value > high {
		return 0, fmt.Errorf("%s: %d is not in %d…%d", key, *value, low, high)
	}
	return *value, nil
}

// Wanted is what the PF is to enforce, for a VF that now has have. The error is a *types.Error: a rate that does not go with
// the other one, which stays.
func (c *Config) Wanted(have vf.Settings) (vf.Settings, error) {
	s := vf.Settings{MAC: c.MAC, VLAN: c.VLAN, SpoofCheck: c.SpoofCheck, Trust: c.Trust, LinkState: c.LinkState}
	if c.MinTxRate == nil && c.MaxTxRate == nil {
		return s, nil
	}
	var rate vf.Rate
	if have.Rate != nil {
		rate = *have.Rate
	}
	if c.MinTxRate != nil {
		rate.Min = *c.MinTxRate
	}
	if c.MaxTxRate != nil {
		rate.Max = *c.MaxTxRate
	}
	if rate.Max != 0 && rate.Min > rate.Max {
		return s, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("network %q: min_tx_rate %d is more than max_tx_rate %d, of which the network sets one and the VF has the other", c.Network, rate.Min, rate.Max), "")
	}
	s.Rate = &rate
	return s, nil
}
