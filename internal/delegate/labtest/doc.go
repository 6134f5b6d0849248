// Package labtest holds the tests of internal/delegate that need the lab: real plugins whose interfaces not every machine's
// kernel has. It is a package of its own so that the lab runs these alone.
package labtest
