package operator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/viaduct-sriov/viaduct/internal/journal"
)

// A network definition may hold anything, secrets too: an IPAM plugin's password, a token. So what leaves the node has the
// values of keys that are known to be harmless, and of other keys no more than their kind. It is a list of what may go, not
// of what may not: nobody can list the names that a secret could have.

// harmless are keys of CNI configurations and results of which the value, and all below it, may go.
var harmless = words(`
	cniVersion cniVersions name type plugins disableCheck disableGC loadOnlyInlinedPlugins
	deviceID pciBusID vlan vlanQoS vlanProto mac spoofchk trust link_state min_tx_rate max_tx_rate mtu logLevel logFile
	allowPodOverrides
	ipam subnet range ranges rangeStart rangeEnd range_start range_end exclude gateway routes dst gw priority scope table
	addresses address version dataDir resolvConf
	dns nameservers domain search
	isGateway isDefaultGateway forceAddress ipMasq hairpinMode promiscMode bridge master mode vlanTrunk vlanId macspoofchk
	interfaces ips interface sandbox pciID socketPath linkInContainer
	capabilities portMappings bandwidth infinibandGUID aliases snat conditionsV4 conditionsV6 CNIDeviceInfoFile
	delegates defaultNetworks agentSocket stateDir runDir deviceInfoDir logDir pluginTimeoutSeconds lockWaitSeconds
	runtimeConfig device-info pci vdpa pci-address pf-pci-address parent-device driver path rdma-device representor-device`)

// poolKeys are those of the device plugin's configuration; additionalInfo, which is for pods, is not among them.
var poolKeys = words(`
	resourceList resourceName resourcePrefix deviceType excludeTopology selectors allocationPolicy healthCheck pfLink
	allowAddressed vendors devices drivers pciAddresses acpiIndexes pfNames rootDevices linkTypes ddpProfiles pKeys isRdma
	needVhostNet vdpaType auxTypes SelectorObj SelectorObjs`)

// siteKeys are those of the file in which a node's owner moves folders.
var siteKeys = words("stateDir logDir")

func words(s string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(s) {
		set[strings.ToLower(w)] = true
	}
	return set
}

// redactJSON gives a JSON document without the values of keys that are not known.
func redactJSON(data []byte, known map[string]bool) ([]byte, error) {
	v, err := decode(data)
	if err != nil {
		return nil, err
	}
	return encode(redact(v, known))
}

func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	return v, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// redact keeps the values of known keys. The value of a known key may be an object, whose keys have to be known, too.
func redact(v any, known map[string]bool) any {
	switch x := v.(type) {
	case map[string]any:
		for key, value := range x {
			if known[strings.ToLower(key)] {
				x[key] = redact(value, known)
			} else {
				x[key] = removed(value)
			}
		}
	case []any:
		for i := range x {
			x[i] = redact(x[i], known)
		}
	}
	return v
}

// removed tells what kind of value there was, and the keys within it.
func removed(v any) any {
	switch x := v.(type) {
	case nil, bool:
		return v
	case map[string]any:
		for key, value := range x {
			x[key] = removed(value)
		}
		return x
	case []any:
		for i := range x {
			x[i] = removed(x[i])
		}
		return x
	case json.Number:
		return "(a number, removed)"
	default:
		return "(text, removed)"
	}
}

// redactRecord is for records of internal/journal: everything is ours but the networks' configurations, what they
// answered, what the runtime passed for them, and the arguments.
func redactRecord(data []byte) ([]byte, error) {
	all, torn, err := journal.Split(data)
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	var out []byte
	for _, one := range all {
		v, err := decode(one)
		if err == nil {
			one, err = encode(redactForeign(v))
		}
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
	}
	if torn {
		out = append(out, '{') // as there
	}
	return out, nil
}

func redactForeign(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for key, value := range x {
			switch key {
			case "config", "capabilities", "result", "deviceInfo":
				x[key] = redact(value, harmless)
			case "args":
				text, _ := value.(string)
				x[key] = redactArgs(text)
			default:
				x[key] = redactForeign(value)
			}
		}
	case []any:
		for i := range x {
			x[i] = redactForeign(x[i])
		}
	case string: // such as what a plugin answered
		return string(redactText([]byte(x)))
	}
	return v
}

// redactTexts is v as JSON, each of its texts by itself as a log's: the JSON's own signs are no part of a secret.
func redactTexts(v any) ([]byte, error) {
	data, err := encode(v)
	if err != nil {
		return nil, err
	}
	if v, err = decode(data); err != nil {
		return nil, err
	}
	return encode(redactForeign(v))
}

// redactArgs is for CNI_ARGS: KEY=value;KEY=value.
func redactArgs(args string) string {
	parts := strings.Split(args, ";")
	for i, part := range parts {
		key, _, ok := strings.Cut(part, "=")
		if ok && key != "MAC" && key != "IgnoreUnknown" && !strings.HasPrefix(key, "K8S_POD_") {
			parts[i] = key + "=(removed)"
		}
	}
	return strings.Join(parts, ";")
}

// Logs are text. Nobody can know what a plugin of others wrote into an error, so what looks like a secret goes, and the
// reader is told to look.
var (
	secretWords = regexp.MustCompile(`(?i)((?:pass(?:word|wd|phrase)?|token|secret|credentials?|api[-_]?key|private[-_]?key|authorization)(?:\\*["'])?\s*[:=]\s*)(?:\\+"[^"]*"|"[^"]*"|'[^']*'|bearer\s+\S+|basic\s+\S+|[^\s,;}"']+)`)
	bearer      = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`)
	jwt         = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9._-]+`)
	pem         = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*(?:PRIVATE KEY|CERTIFICATE)-----.*?(?:-----END [A-Z ]*-----|$)`)
	userInURL   = regexp.MustCompile(`://[^/\s:@]+:[^/\s@]+@`)
)

func redactText(b []byte) []byte {
	b = pem.ReplaceAll(b, []byte("(removed)"))
	b = secretWords.ReplaceAll(b, []byte("${1}(removed)"))
	b = bearer.ReplaceAll(b, []byte("${1} (removed)"))
	b = jwt.ReplaceAll(b, []byte("(removed)"))
	return userInURL.ReplaceAll(b, []byte("://(removed)@"))
}

// linesWith keeps the lines that have one of the words.
func linesWith(text []byte, wanted []string) []byte {
	var kept [][]byte
	for line := range bytes.Lines(text) {
		if slices.ContainsFunc(wanted, func(w string) bool { return w != "" && bytes.Contains(line, []byte(w)) }) {
			kept = append(kept, line)
		}
	}
	return bytes.Join(kept, nil)
}
