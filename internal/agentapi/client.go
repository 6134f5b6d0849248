package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/viaduct-sriov/viaduct/internal/network"
	"github.com/viaduct-sriov/viaduct/internal/peer"
)

const (
	// ConnectWait is how long a Plan waits for an agent that is not there: long enough for the agent's pod to be replaced,
	// short enough that the runtime's own time for a sandbox is not used up.
	ConnectWait = 5 * time.Second
	// AnswerWait is how long a Plan waits for the answer of an agent that is there. The agent may have to ask a slow API
	// server for a definition, or to stand in a queue after a boot.
	AnswerWait = 60 * time.Second
	// ReportWait bounds a Report altogether: the pod waits for it, and it is not worth more.
	ReportWait = 2 * time.Second

	connectPoll = 50 * time.Millisecond
)

// ErrUnavailable means that no agent answered.
var ErrUnavailable = errors.New("the node agent (meta-agent) does not answer")

// A Client asks the agent at Socket. Its methods may be called concurrently.
type Client struct {
	// Socket is the agent's path; empty means DefaultSocket.
	Socket string
	// ConnectWait and AnswerWait replace the constants of these names if they are not 0.
	ConnectWait, AnswerWait time.Duration
}

// Plan returns what networks the sandbox gets. The error is an *Error if the agent refused; it wraps ErrUnavailable if
// there was no agent to ask, or none that lived to answer, for ConnectWait.
func (c Client) Plan(ctx context.Context, p Plan) (*network.Plan, error) {
	resp, err := c.ask(ctx, Request{Version: Version, Plan: &p})
	if err != nil {
		return nil, err
	}
	if resp.Plan == nil {
		return nil, fmt.Errorf("%w: its answer holds no plan", ErrUnavailable)
	}
	return resp.Plan, nil
}

// Report hands network-status to the agent and waits until it is published, ReportWait at most.
func (c Client) Report(ctx context.Context, r Report) error {
	ctx, cancel := context.WithTimeout(ctx, ReportWait)
	defer cancel()
	c.ConnectWait = ReportWait
	_, err := c.ask(ctx, Request{Version: Version, Report: &r})
	return err
}

// Ping returns nil if an agent answers, of whatever version.
func (c Client) Ping(ctx context.Context) error {
	question, err := encode(Request{})
	if err == nil {
		_, err = c.askOnce(ctx, question, AnswerWait)
	}
	return err
}

// ask tries again while the agent is missing, or goes away in the middle: both questions may be asked twice.
func (c Client) ask(ctx context.Context, req Request) (*Response, error) {
	question, err := encode(req)
	if err != nil { // however often it is asked
		return nil, unsendable(req, err)
	}
	connectWait, answerWait := orDefault(c.ConnectWait, ConnectWait), orDefault(c.AnswerWait, AnswerWait)
	deadline := time.Now().Add(connectWait)
	for {
		resp, err := c.askOnce(ctx, question, answerWait)
		if err == nil {
			return resp, check(resp)
		}
		var timeout net.Error
		slow := errors.As(err, &timeout) && timeout.Timeout() // it is there, and busy: asking again makes it busier
		if slow || !time.Now().Before(deadline) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(context.Cause(ctx), err))
		case <-time.After(connectPoll):
		}
	}
}

// unsendable says why a question cannot be put: of a plan's, only the pod's annotations can be too long.
func unsendable(req Request, err error) error {
	if req.Plan == nil {
		return err
	}
	refused := network.Error{
		Reason: network.TooLong, Pod: req.Plan.Pod, Key: network.NetworksAnnotation, Problem: "the pod's annotations are too long: " + err.Error(),
		Remedy: "ask for fewer networks",
	}
	return &Error{Code: 7, Message: refused.Error()}
}

func (c Client) askOnce(ctx context.Context, question []byte, answerWait time.Duration) (resp *Response, err error) {
	path := c.Socket
	if path == "" {
		path = DefaultSocket
	}
	// Not net.Dial, which links the resolver of names. A unix socket answers at once: there is nothing for ctx to end.
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := peer.Check(conn); err != nil { // its plan says which programs run as root
		return nil, fmt.Errorf("who answers at %s: %w", path, err)
	}
	deadline := time.Now().Add(answerWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("set a deadline: %w", err)
	}
	if err := send(conn, question); err != nil {
		return nil, err
	}
	resp = new(Response)
	if err := ReadFrame(conn, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// check finds a refusal, and an answer of a version that this build would misread. During an upgrade either side may be
// the newer one; the kubelet tries again, so the pod starts when both are of one version.
func check(resp *Response) error {
	if resp.Error != nil {
		return resp.Error
	}
	if resp.Version != Version {
		return &Error{
			Code:    11,
			Message: fmt.Sprintf("the node agent speaks protocol version %d, this meta-cni speaks %d", resp.Version, Version),
			Details: "an upgrade is under way; if this stays, install meta-cni and meta-agent of the same release",
		}
	}
	return nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
