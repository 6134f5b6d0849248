// Package sbom writes a software bill of materials of Go programs, as CycloneDX 1.6 JSON: each program, and each module in
// it with its version and the checksum by which go.sum knows it. All of it is read from the programs themselves, so it is
// what was linked, not what somebody meant to link.
package sbom

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

type document struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// Of returns the document of the programs at these paths, which must be of one module. Equal programs give equal bytes: it
// has neither time nor serial number.
func Of(programs ...string) ([]byte, error) {
	modules := map[string]component{}
	var d document
	for _, path := range programs {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read what %s is made of: %w", path, err)
		}
		main := module(&info.Main)
		main.Type, main.Version = "application", cmp.Or(setting(info, "vcs.revision"), main.Version)
		if d.Metadata.Component.Ref != "" && d.Metadata.Component.Ref != main.Ref {
			return nil, fmt.Errorf("%s is of %s, other programs are of %s", path, main.Ref, d.Metadata.Component.Ref)
		}
		d.Metadata.Component = main
		name := filepath.Base(path)
		program := component{
			Ref: "program:" + name, Type: "application", Name: name, Version: main.Version,
			Properties: []property{{"go:platform", setting(info, "GOOS") + "/" + setting(info, "GOARCH")}},
		}
		d.Components = append(d.Components, program)
		uses := []string{}
		for _, m := range append(info.Deps, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
			if m.Replace != nil {
				m = m.Replace
			}
			c := module(m)
			modules[c.Ref] = c
			uses = append(uses, c.Ref)
		}
		slices.Sort(uses)
		d.Dependencies = append(d.Dependencies, dependency{program.Ref, uses})
	}
	byRef := func(a, b component) int { return cmp.Compare(a.Ref, b.Ref) }
	slices.SortFunc(d.Components, byRef)
	slices.SortFunc(d.Dependencies, func(a, b dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	d.Components = append(d.Components, slices.SortedFunc(maps.Values(modules), byRef)...)
	d.Format, d.Spec, d.Version = "CycloneDX", "1.6", 1
	data, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode the bill of materials: %w", err)
	}
	return append(data, '\n'), nil
}

func module(m *debug.Module) component {
	version := m.Version
	if version == "(devel)" {
		version = ""
	}
	c := component{Type: "library", Name: m.Path, Version: version, PURL: "pkg:golang/" + m.Path}
	if version != "" {
		c.PURL += "@" + strings.ReplaceAll(version, "+", "%2B")
	}
	c.Ref = c.PURL
	if m.Sum != "" {
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c
}

func setting(info *buildinfo.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
