// Package scale measures how the two daemons grow with a node and with a fleet: make scale prints the figures, and
// docs/scale.md has those of one run and says what they mean. What is asserted holds on every machine: counts, bytes and
// memory, and no times.
package scale
