package ociimage

import "testing"

func TestStaticRefusesADynamicProgram(t *testing.T) {
	if err := static("/bin/ls"); err == nil {
		t.Error("/bin/ls passed for a static binary")
	}
}
