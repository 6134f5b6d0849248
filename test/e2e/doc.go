// Package e2e tests the product on a real cluster: it deploys conf/ from the built image, makes pods, and looks at what
// happens to the kernel's VFs and at what a user would see. The tests run on the node itself, with the build tag cluster:
//
//	go test -tags cluster -exec "$PWD/bin/cluster run --image $PWD/bin/image.tar --" ./test/e2e
package e2e
