// Package agentapi is what the stub (meta-cni) and the node agent (meta-agent) say to each other over a unix socket:
// one request and one answer a connection, each a JSON document behind its length (4 bytes, big endian).
package agentapi

import (
	"encoding/json"

	"github.com/viaduct-sriov/viaduct/internal/network"
)

// Version is this build's protocol version. A peer that speaks another one is answered with an Error that says both.
const Version = 1

// DefaultSocket is where the agent listens (mode 0600, in a folder of mode 0700).
const DefaultSocket = "/run/viaduct/agent/agent.sock"

// A Request carries exactly one of its questions.
type Request struct {
	Version int     `json:"version"`
	Plan    *Plan   `json:"plan,omitempty"`
	Report  *Report `json:"report,omitempty"`
}

// UnmarshalJSON reads of a request in another version only that: what else it has may have another form.
func (r *Request) UnmarshalJSON(b []byte) error {
	var head struct{ Version int }
	if err := json.Unmarshal(b, &head); err != nil || head.Version != Version {
		*r = Request{Version: head.Version}
		return err
	}
	type plain Request
	return json.Unmarshal(b, (*plain)(r))
}

// Plan asks what networks a sandbox gets beside the default one.
type Plan struct {
	ContainerID string      `json:"containerID"`
	Pod         network.Pod `json:"pod"`
	// Annotations are the pod's, as the runtime passed them with this sandbox. Nil if it passed none: the agent then asks
	// its informer. An empty map is an answer: the pod has none.
	Annotations map[string]string `json:"annotations"`
}

// Report tells how a sandbox was attached, so that the agent can publish network-status before the pod starts.
type Report struct {
	Pod    network.Pod     `json:"pod"`
	Status json.RawMessage `json:"status"` // the value of the network-status annotation
}

// A Response answers a Request: Plan for a Plan, nothing for a Report; or Error.
type Response struct {
	Version int           `json:"version"`
	Plan    *network.Plan `json:"plan,omitempty"`
	Error   *Error        `json:"error,omitempty"`
}

// UnmarshalJSON reads of an answer in another version only that, and a refusal if it has today's form.
func (r *Response) UnmarshalJSON(b []byte) error {
	type plain Response
	bad := json.Unmarshal(b, (*plain)(r))
	if bad == nil && r.Version == Version {
		return nil // as nearly always: read once
	}
	var head struct {
		Version int
		Error   json.RawMessage
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	if head.Version == Version {
		return bad
	}
	*r = Response{Version: head.Version}
	if refusal := new(Error); json.Unmarshal(head.Error, refusal) == nil && refusal.Message != "" {
		r.Error = refusal
	}
	return nil
}

// An Error is a refusal, with the CNI error code that the stub passes on to the runtime: 7 for what the pod's or the
// definition's author can mend, 11 for what another try can mend.
type Error struct {
	Code    uint   `json:"code"`
	Message string `json:"message"`
	Details string `json:"details,omitempty"`
}

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Message
	}
	return e.Message + ": " + e.Details
}
