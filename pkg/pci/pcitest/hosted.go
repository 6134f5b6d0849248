package pcitest

import "strconv"

// AddSubfunction makes a subfunction on a function, as mlx5_core does, with an interface if its index is not 0. It gives
// the subfunction's folder.
func (t Tree) AddSubfunction(address, name string, number int, n Net) string {
	t.T.Helper()
	dir := t.Dir(address) + "/" + name
	t.Write(dir+"/sfnum", strconv.Itoa(number))
	t.onBus("auxiliary", "mlx5_core.sf", dir, name)
	if n.Index != 0 {
		t.netdev(dir+"/net/"+n.Name, n)
	}
	return dir
}

// AddVDPA makes a vDPA device in the folder of a function or subfunction. It gives the device's folder.
func (t Tree) AddVDPA(on, name, driver string) string {
	t.T.Helper()
	dir := on + "/" + name
	t.onBus("vdpa", driver, dir, name)
	return dir
}

// onBus puts the folder of a device on a bus, with a driver if that is not empty.
func (t Tree) onBus(bus, driver, dir, name string) {
	t.T.Helper()
	t.mkdir("sys/bus/" + bus)
	t.Link(t.up(dir)+"bus/"+bus, dir+"/subsystem")
	t.Link("../../../"+dir[len("sys/"):], "sys/bus/"+bus+"/devices/"+name)
	t.BindHosted(dir, bus, driver)
}

// BindHosted makes driver the driver of a device on another bus, by its folder; none if it is empty.
func (t Tree) BindHosted(dir, bus, driver string) {
	t.T.Helper()
	t.Remove(dir + "/driver")
	if driver != "" {
		t.mkdir("sys/bus/" + bus + "/drivers/" + driver)
		t.Link(t.up(dir)+"bus/"+bus+"/drivers/"+driver, dir+"/driver")
	}
}
