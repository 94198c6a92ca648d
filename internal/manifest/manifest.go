// Package manifest reads API objects from files as kubectl does: files, folders and
// standard input, YAML and JSON, many documents in one, and Lists. It is strict: a
// field that a kind does not have is an error.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// APIObject is any object of the API.
type APIObject interface {
	runtime.Object
	metav1.Object
}

// Object is an object and where it comes from.
type Object struct {
	APIObject
	// Source tells people where it is: "pools.yaml, document 2: IPAddressPool gold".
	Source string
}

// Stdin is the name that stands for standard input.
const Stdin = "-"

// Read reads all objects in files and folders, in their order, as the kinds that
// scheme knows. It says of everything that is wrong where it is.
func Read(paths []string, stdin io.Reader, scheme *runtime.Scheme) ([]Object, error) {
	r := reader{decoder: serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme, scheme, serializer.SerializerOptions{Strict: true})}
	for _, path := range paths {
		if path == Stdin {
			r.read("standard input", stdin)
			continue
		}
		files, err := filesOf(path)
		if err != nil {
			r.fail(path, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				r.fail(file, err)
				continue
			}
			r.read(file, bytes.NewReader(text))
		}
	}
	return r.objects, errors.Join(r.errs...)
}

// filesOf returns a file, or those of a folder that have manifests.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, errors.New("has no files that end with .yaml, .yml or .json")
	}
	return files, nil
}

type reader struct {
	decoder runtime.Decoder
	objects []Object
	errs    []error
}

func (r *reader) fail(where string, err error) {
	r.errs = append(r.errs, fmt.Errorf("%s: %w", where, err))
}

// read reads the documents of one file.
func (r *reader) read(name string, from io.Reader) {
	buffered, _, isJSON := utilyaml.GuessJSONStream(from, 4096)
	next := yamlDocuments(buffered)
	if isJSON {
		next = jsonDocuments(buffered)
	}
	for n := 1; ; n++ {
		where := fmt.Sprintf("%s, document %d", name, n)
		document, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			r.fail(where, err)
			return
		}
		if text := string(bytes.TrimSpace(document)); text != "" && text != "null" && text != "{}" {
			r.decode(where, document)
		}
	}
}

func yamlDocuments(from io.Reader) func() ([]byte, error) {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(from))
	return func() ([]byte, error) {
		text, err := documents.Read()
		if err != nil {
			return nil, err
		}
		return yaml.YAMLToJSONStrict(text)
	}
}

func jsonDocuments(from io.Reader) func() ([]byte, error) {
	decoder := json.NewDecoder(from)
	return func() ([]byte, error) {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		return raw, err
	}
}

// header is what tells of any object what it is.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{ Namespace, Name string }
	Items           []json.RawMessage
}

func (r *reader) decode(where string, document []byte) {
	var h header
	if err := json.Unmarshal(document, &h); err != nil {
		r.fail(where, fmt.Errorf("is no API object: %w", err))
		return
	}
	if strings.HasSuffix(h.Kind, "List") && h.Metadata.Name == "" {
		for i, item := range h.Items {
			r.decode(fmt.Sprintf("%s, items[%d]", where, i), item)
		}
		return
	}
	where += ": " + strings.TrimSpace(h.Kind+" "+strings.TrimPrefix(h.Metadata.Namespace+"/"+h.Metadata.Name, "/"))
	object, _, err := r.decoder.Decode(document, nil, nil)
	switch {
	case h.Kind == "" || h.APIVersion == "":
		r.fail(where, errors.New("is no API object: kind or apiVersion is missing"))
		return
	case runtime.IsNotRegisteredError(err):
		r.fail(where, fmt.Errorf("kind %s of %s does not belong here", h.Kind, h.APIVersion))
		return
	case err != nil:
		r.fail(where, unwrapped(err))
		return
	}
	typed, is := object.(APIObject)
	if !is || typed.GetName() == "" {
		r.fail(where, errors.New("metadata.name is missing"))
		return
	}
	typed.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as objects from the API have it
	r.objects = append(r.objects, Object{APIObject: typed, Source: where})
}

func unwrapped(err error) error {
	if strict, is := runtime.AsStrictDecodingError(err); is {
		return errors.Join(strict.Errors()...)
	}
	return err
}
