package operator

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/viaduct-sriov/viaduct/internal/pool"
)

// nonblock keeps an open from waiting for the other end of a pipe that somebody put in a file's place.
const nonblock = unix.O_NONBLOCK | unix.O_CLOEXEC

// poolsFile is where the device plugin's container has its configuration.
const poolsFile = "/etc/pcidp/config.json"

// findPools looks for the device plugin's configuration where vfctl runs in its container, and else among what the kubelet
// has mounted into pods. Of several it takes the newest.
func (n *Node) findPools() string {
	if _, err := os.Stat(n.path(poolsFile)); err == nil {
		return poolsFile
	}
	found, _ := filepath.Glob(n.path(filepath.Join(n.KubeletRoot, "pods/*/volumes/kubernetes.io~configmap/*/config.json")))
	newest, at := "", int64(0)
	for _, path := range found {
		info, err := os.Stat(path)
		if err != nil || info.ModTime().UnixNano() <= at {
			continue
		}
		if data, err := readFile(path); err == nil && bytes.Contains(bytes.ToLower(data), []byte(`"resourcelist"`)) {
			newest, at = path, info.ModTime().UnixNano()
		}
	}
	if newest == "" {
		return ""
	}
	rel, err := filepath.Rel(n.Root, newest)
	if err != nil {
		return ""
	}
	return filepath.Join("/", rel)
}

// pools reads the configuration; nil without a word if there is none.
func (n *Node) pools() (*pool.Config, error) {
	data, file, err := n.readPools()
	if data == nil || err != nil {
		return nil, err
	}
	config, _, err := pool.Parse(data, n.Prefix)
	if err != nil {
		return nil, fmt.Errorf("%s is faulty, and says nothing of which VF is in which pool (the device plugin goes on with the last good one):\n%w", file, err)
	}
	return config, nil
}

func (n *Node) readPools() (data []byte, file string, err error) {
	if n.PoolsFile == "" {
		return nil, "", nil
	}
	file = filepath.Join(filepath.Dir(n.PoolsFile), n.NodeName+".json")
	if data, err = readFile(n.path(file)); err != nil {
		file = n.PoolsFile
		data, err = readFile(n.path(file))
	}
	if err != nil {
		return nil, file, fmt.Errorf("read the pools' configuration: %w", err)
	}
	return data, file, nil
}

// poolOf is the pool that the configuration has for a resource; nil if it has none.
func (l *look) poolOf(resource string) *pool.Pool {
	if l.config == nil {
		return nil
	}
	i := slices.IndexFunc(l.config.Pools, func(p pool.Pool) bool { return p.Resource == resource })
	if i < 0 {
		return nil
	}
	return &l.config.Pools[i]
}
