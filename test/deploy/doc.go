// Package deploy holds no code: its tests look at what is shipped to clusters the way that kubectl, Helm, the API server and
// Prometheus do, with their own libraries. It is a module of its own, so that these stay out of the product's go.mod.
package deploy
