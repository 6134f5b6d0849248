package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// MaxStdin is how many bytes of configuration a plugin reads: more than any runtime or API server hands on.
const MaxStdin = 32 << 20

// CmdArgs is what a runtime passes to a plugin. Which of it is there depends on the verb; what is there has been checked.
type CmdArgs struct {
	ContainerID string
	Netns       string // path; may be empty at DEL
	IfName      string
	Args        string // CNI_ARGS, as it is
	Path        string // CNI_PATH, as it is
	StdinData   []byte // the network's configuration: a JSON object with a name
	CNIVersion  string // the configuration's; of one that names none it is 0.1.0
}

// Verbs are what a plugin does. An error that is no *types.Error is told as one of code 999 (internal).
type Verbs struct {
	Add, Del, Check, GC, Status func(*CmdArgs) error
}

// Main carries out the verb in CNI_COMMAND, as the CNI specification (1.1.0) says, and returns the exit status. An error's
// JSON goes to standard output. Without a verb it tells a person what the program is for, in the words of about.
//
// The library's skel would do the same, but for what it costs each start of the program: a regular expression and the tables of
// package regexp, a tenth of the time from start to exit. It also leaves the version out of errors, and looks whether CNI_NETNS is
// the plugin's own network namespace only when the work is done and the result is printed.
func Main(verbs Verbs, about func() string) int {
	return program{os.Getenv, os.Stdin, os.Stdout, os.Stderr}.main(verbs, about)
}

// known are the versions of the specification that a plugin speaks.
func known() []string { return version.All.SupportedVersions() }

type program struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (p program) main(verbs Verbs, about func() string) int {
	var args CmdArgs
	err := p.run(verbs, about, &args)
	if err == nil {
		return 0
	}
	told, ok := errors.AsType[*types.Error](err)
	if !ok {
		told = types.NewError(types.ErrInternal, err.Error(), "")
	}
	answer := struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		*types.Error
	}{args.CNIVersion, told}
	if bad := json.NewEncoder(p.stdout).Encode(answer); bad != nil {
		fmt.Fprintf(p.stderr, "cannot write the error to standard output: %v; the error: %v\n", bad, err)
	}
	return 1
}

// run fills in args as far as they could be read.
func (p program) run(verbs Verbs, about func() string, args *CmdArgs) error {
	command := p.getenv("CNI_COMMAND")
	var verb func(*CmdArgs) error
	var since string // the first version that has the verb
	switch command {
	case "":
		_, err := fmt.Fprintf(p.stderr, "%s\nCNI versions: %s\n", strings.TrimSpace(about()), strings.Join(known(), ", "))
		return err
	case "VERSION":
		_, err := fmt.Fprintf(p.stdout, "{\"cniVersion\":%q,\"supportedVersions\":[\"%s\"]}\n", version.Current(), strings.Join(known(), `","`))
		return err
	case "ADD":
		verb, since = verbs.Add, "0.1.0"
	case "DEL":
		verb, since = verbs.Del, "0.1.0"
	case "CHECK":
		verb, since = verbs.Check, "0.4.0"
	case "GC":
		verb, since = verbs.GC, "1.1.0"
	case "STATUS":
		verb, since = verbs.Status, "1.1.0"
	default:
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND is %q", command),
			"it must be ADD, DEL, CHECK, GC, STATUS or VERSION")
	}
	incomplete := p.readEnvironment(command, args)
	if incomplete != nil && p.atTerminal() {
		return incomplete // a person who tries it has nothing to type
	}
	wrong := p.readConfig(args) // first of all for the version, which an error is to carry
	if incomplete != nil {
		return incomplete
	}
	if wrong != nil {
		return wrong
	}
	if ok, err := version.GreaterThanOrEqualTo(args.CNIVersion, since); err != nil || !ok {
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %s has no %s, which came with %s", args.CNIVersion, command, since), "")
	}
	return verb(args)
}

// atTerminal also tells /dev/null, where there is nothing to be read either.
func (p program) atTerminal() bool {
	f, ok := p.stdin.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p program) readConfig(args *CmdArgs) error {
	data, err := io.ReadAll(io.LimitReader(p.stdin, MaxStdin+1))
	if err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("read the configuration from standard input: %v", err), "")
	}
	if len(data) > MaxStdin {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("the configuration has more than %d bytes", MaxStdin), "")
	}
	var conf struct {
		Name       string `json:"name"`
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("the configuration on standard input: %v", err), "")
	}
	if conf.CNIVersion == "" {
		conf.CNIVersion = "0.1.0" // the specification's default
	}
	if !slices.Contains(known(), conf.CNIVersion) {
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("cniVersion %q is not known", conf.CNIVersion),
			"it must be one of "+strings.Join(known(), ", "))
	}
	args.StdinData, args.CNIVersion = data, conf.CNIVersion
	return CheckNetworkName(conf.Name)
}

// readEnvironment names all variables that are missing at once.
func (p program) readEnvironment(command string, args *CmdArgs) error {
	aboutContainer := command != "GC" && command != "STATUS"
	var missing []string
	for _, v := range []struct {
		name   string
		to     *string
		needed bool
		check  func(string) error
	}{
		{"CNI_CONTAINERID", &args.ContainerID, aboutContainer, CheckContainerID},
		{"CNI_NETNS", &args.Netns, aboutContainer && command != "DEL", nil},
		{"CNI_IFNAME", &args.IfName, aboutContainer, CheckIfName},
		{"CNI_ARGS", &args.Args, false, nil},
		{"CNI_PATH", &args.Path, true, nil},
	} {
		*v.to = p.getenv(v.name)
		if *v.to == "" && v.needed {
			missing = append(missing, v.name)
			continue
		}
		if v.needed && v.check != nil {
			if err := v.check(*v.to); err != nil {
				return err
			}
		}
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("%s needs %s, which the runtime has not set", command, strings.Join(missing, ", ")), "")
	}
	return nil
}
