// Command empty does nothing: what it takes is what Go's runtime takes.
package main

func main() {}
