// Package bench compares the sriov plugin with what the kernel itself takes for the same work. Its benchmarks run in the
// lab: make bench.
package bench
