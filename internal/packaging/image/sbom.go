package image

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// license of Berth.
const license = "Apache-2.0"

// The parts of SPDX 2.3 that are used here.
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	Copyright        string         `json:"copyrightText"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	Refs             []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

func goPackage(number int, path, version string) spdxPackage {
	return spdxPackage{
		ID: fmt.Sprintf("SPDXRef-Module-%d", number), Name: path, Version: version, DownloadLocation: unknown,
		LicenseConcluded: unknown, LicenseDeclared: unknown, Copyright: unknown,
		Refs: []spdxRef{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: "pkg:golang/" + path + "@" + version}},
	}
}

// sbomOf says in SPDX what a binary was built from, as the Go linker noted it
// there. Its date is the epoch, so that it is the same whenever it is made.
func sbomOf(i Image, architecture string, binary []byte) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(binary)
	digest := hex.EncodeToString(sum[:])
	const main = "SPDXRef-Binary"
	document := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: i.Name + "-" + architecture,
		Namespace: fmt.Sprintf("https://berth.dev/spdx/%s-%s-%s-%s", i.Name, i.Version, architecture, digest),
		Creation:  spdxCreation{Created: "1970-01-01T00:00:00Z", Creators: []string{"Tool: berth-images"}},
		Packages: []spdxPackage{{
			ID: main, Name: i.Name, Version: i.Version, DownloadLocation: unknown,
			LicenseConcluded: license, LicenseDeclared: license, Copyright: unknown,
			Checksums: []spdxChecksum{{Algorithm: "SHA256", Value: digest}},
		}},
		Relationships: []spdxRelationship{{From: "SPDXRef-DOCUMENT", Type: "DESCRIBES", To: main}},
	}
	add := func(path, version string) {
		p := goPackage(len(document.Packages), path, version)
		document.Packages = append(document.Packages, p)
		document.Relationships = append(document.Relationships, spdxRelationship{From: main, Type: "DEPENDS_ON", To: p.ID})
	}
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	add("stdlib", goVersion)
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		add(module.Path, module.Version)
	}
	content, err := json.MarshalIndent(document, "", "  ")
	return append(content, '\n'), err
}
