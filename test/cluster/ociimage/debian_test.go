package ociimage

import "testing"

func TestPackageOf(t *testing.T) {
	for soname, want := range map[string]string{
		"librte_eal.so.23":       "librte-eal23",
		"librte_net_e1000.so.23": "librte-net-e1000-23",
		"libnl-route-3.so.200":   "libnl-route-3-200",
		"libpcap.so.0.8":         "libpcap0.8",
		"libmlx5.so.1":           "ibverbs-providers",
	} {
		if got := packageOf(soname); got != want {
			t.Errorf("%s is in %s, want %s", soname, got, want)
		}
	}
}
