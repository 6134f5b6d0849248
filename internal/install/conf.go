package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// Conf is the name of the network configuration by which the runtime starts meta-cni. The meta-agent writes it.
const Conf = "00-viaduct.conflist"

// ErrAgentRuns means that the meta-agent still runs, and would put its network configuration back.
var ErrAgentRuns = errors.New("the meta-agent still runs on this node and would put it back: delete its DaemonSet first")

// RemoveConf removes the network configuration that names meta-cni from confDir, so that the runtime goes back to the
// default network alone. Do it before meta-cni itself is removed: a runtime that is told to start a plugin that is not
// there starts no pod. It refuses with ErrAgentRuns while something answers on the agent's socket.
func RemoveConf(ctx context.Context, confDir, agentSocket string) (Outcome, error) {
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", agentSocket); err == nil {
		return "", errors.Join(fmt.Errorf("remove %s: %w", filepath.Join(confDir, Conf), ErrAgentRuns), conn.Close())
	}
	err := os.Remove(filepath.Join(confDir, Conf))
	if errors.Is(err, fs.ErrNotExist) {
		return Absent, nil
	}
	if err != nil {
		return "", fmt.Errorf("remove the network configuration: %w", err)
	}
	if err := Folder(confDir).sync(); err != nil {
		return "", fmt.Errorf("remove the network configuration: %w", err)
	}
	return Removed, nil
}
