// Package e2e tests the product on a real cluster that has conf/, with the built image: it makes pods, and looks at what happens
// to the kernel's VFs and at what a user would see. The tests run on the node itself, with the build tag cluster, by make
// test-cluster; docs/development.md has the command for one of them.
package e2e
