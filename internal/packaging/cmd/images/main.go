// Command images packs Berth's binaries into OCI image archives.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-lb/berth/internal/packaging/image"
)

func main() {
	version := flag.String("version", "dev", "version of the images")
	folder := flag.String("folder", "", "has the binaries as ARCHITECTURE/NAME and gets the archives as NAME.tar")
	flag.Parse()
	if err := write(*folder, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// write makes the images for the architectures. The speaker is root, without
// whom Kubernetes cannot give it the capabilities that it needs.
func write(folder, version string, architectures []string) error {
	for _, i := range []image.Image{
		{Name: "controller", Version: version, User: "65532:65532"},
		{Name: "speaker", Version: version, User: "0:0"},
	} {
		var binaries []image.Binary
		for _, architecture := range architectures {
			binaries = append(binaries, image.Binary{Architecture: architecture, Path: filepath.Join(folder, architecture, i.Name)})
		}
		file := filepath.Join(folder, i.Name+".tar")
		if err := i.Write(file, binaries); err != nil {
			return err
		}
		fmt.Println(file)
	}
	return nil
}
