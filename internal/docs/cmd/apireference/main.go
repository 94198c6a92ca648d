// Command apireference writes docs/api.md of the repository in the working folder.
package main

import (
	"fmt"
	"os"

	"github.com/berth-lb/berth/internal/docs"
)

func main() {
	definitions, err := docs.Definitions(".")
	if err == nil {
		err = os.WriteFile("docs/api.md", []byte(docs.Reference(definitions)), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "apireference:", err)
		os.Exit(1)
	}
}
