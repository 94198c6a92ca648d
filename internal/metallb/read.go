package metallb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Lists are where the API server has MetalLB's objects, below /apis/. A kind whose
// versions differ is there under each; the API server converts between them, so
// that the first that exists has all.
func Lists() [][]string {
	old, current := Group+"/v1beta1/", Group+"/v1beta2/"
	return [][]string{
		{old + "communities"}, {old + "bfdprofiles"}, {old + "ipaddresspools"}, {old + "addresspools"},
		{current + "bgppeers", old + "bgppeers"}, {old + "l2advertisements"}, {old + "bgpadvertisements"},
	}
}

// LegacyConfigMap is the name of the ConfigMap that configured MetalLB before there
// were custom resources.
const LegacyConfigMap = legacyName

// Read reads objects from YAML or JSON: one after the other, in Lists, or both.
func Read(from io.Reader) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(from))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		found, err := readDocument(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		objects = append(objects, found...)
	}
}

func readDocument(document []byte) ([]*unstructured.Unstructured, error) {
	content, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, err
	}
	if content = bytes.TrimSpace(content); len(content) == 0 || bytes.Equal(content, []byte("null")) {
		return nil, nil
	}
	object, err := runtime.Decode(unstructured.UnstructuredJSONScheme, content)
	if err != nil {
		return nil, err
	}
	switch found := object.(type) {
	case *unstructured.Unstructured:
		return []*unstructured.Unstructured{found}, nil
	case *unstructured.UnstructuredList:
		var items []*unstructured.Unstructured
		for i := range found.Items {
			items = append(items, &found.Items[i])
		}
		return items, nil
	}
	return nil, fmt.Errorf("%T is no object", object)
}

// Services picks the Services out of objects.
func Services(objects []*unstructured.Unstructured) (services []*corev1.Service, rest []*unstructured.Unstructured, err error) {
	for _, object := range objects {
		if object.GetKind() != "Service" || object.GetAPIVersion() != "v1" {
			rest = append(rest, object)
			continue
		}
		svc := &corev1.Service{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, svc); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", nameOf(object), err)
		}
		services = append(services, svc)
	}
	return services, rest, nil
}
