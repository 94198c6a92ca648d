package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
)

// Programs of Berth, and where their flags are defined.
const (
	plugin = "kubectl-berth"
	lab    = "lab"
)

var flagFolders = map[string][]string{
	"controller": {"controller", "internal/daemon", "internal/k8s"},
	"speaker":    {"speaker", "internal/daemon", "internal/k8s"},
	plugin:       {"cmd/kubectl-berth"},
	lab:          {"internal/lab/cmd/lab"},
}

// flagMethod are the methods of pflag.FlagSet that define a flag.
var flagMethod = regexp.MustCompile(`^(Bool|String|StringSlice|StringArray|StringToString|Int|Int32|Int64|Uint|Uint16|Uint32|Float64|Duration|Count|IP)?(Var)?P?$`)

// definedFlags returns the names of the flags that each program of Berth has.
func definedFlags(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := map[string]map[string]bool{}
	for program, folders := range flagFolders {
		all[program] = map[string]bool{"help": true, "version": true}
		for _, folder := range folders {
			addFlags(t, filepath.Join(root, folder), all[program])
		}
		if len(all[program]) < 5 {
			t.Fatalf("%s has hardly any flag: %v", program, all[program])
		}
	}
	ofKubectl := pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	clientcmd.BindOverrideFlags(&clientcmd.ConfigOverrides{}, ofKubectl, clientcmd.RecommendedConfigOverrideFlags(""))
	ofKubectl.VisitAll(func(f *pflag.Flag) { all[plugin][f.Name] = true })
	all[plugin][clientcmd.RecommendedConfigPathFlag] = true
	return all
}

// addFlags finds the calls that define a flag in the sources of a folder.
func addFlags(t *testing.T, folder string, flags map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources in %s (%v)", folder, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			call, isCall := node.(*ast.CallExpr)
			if !isCall {
				return true
			}
			method, isMethod := call.Fun.(*ast.SelectorExpr)
			if !isMethod || !flagMethod.MatchString(method.Sel.Name) {
				return true
			}
			for _, arg := range call.Args[:min(2, len(call.Args))] {
				if literal, is := arg.(*ast.BasicLit); is && literal.Kind == token.STRING {
					if name, err := strconv.Unquote(literal.Value); err == nil {
						flags[name] = true
					}
					break
				}
			}
			return true
		})
	}
}

// programOf returns which program a command line is of, and its arguments; "" if it
// does not begin with one.
func programOf(line string) (program string, args []string) {
	words := strings.Fields(line)
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "-E" || strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-")) {
		words = words[1:]
	}
	if len(words) == 0 {
		return "", nil
	}
	name := strings.TrimPrefix(words[0], "bin/")
	switch {
	case name == "kubectl" && len(words) > 1 && words[1] == "berth":
		return plugin, words[2:]
	case strings.HasPrefix(name, "-"):
		return "", words
	}
	return name, words[1:]
}

var longFlag = regexp.MustCompile(`^\[?--([a-z][a-z0-9-]*)`)

// TestFlags: every flag that a page gives to a program of Berth, or names without a
// program, is one that it has.
func TestFlags(t *testing.T) {
	t.Parallel()
	defined := definedFlags(t)
	has := func(program, flag string) bool {
		if program != "" {
			return defined[program][flag]
		}
		for _, flags := range defined {
			if flags[flag] {
				return true
			}
		}
		return false
	}
	checked := 0
	for _, m := range mentions(t) {
		program, args := programOf(m.text)
		if program != "" && defined[program] == nil {
			continue // another's
		}
		for _, arg := range args {
			if arg == "--" || arg == "|" {
				break // what follows is another program's
			}
			match := longFlag.FindStringSubmatch(arg)
			if match == nil {
				continue
			}
			checked++
			if !has(program, match[1]) {
				t.Errorf("%s: no flag --%s %s", m.where, match[1], program)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d flags found in the pages", checked)
	}
}
