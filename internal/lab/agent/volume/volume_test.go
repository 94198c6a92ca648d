package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fakeSource has the objects it is given.
type fakeSource struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	renew      time.Time
}

func (s fakeSource) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	return s.configMaps[name], nil
}

func (s fakeSource) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return s.secrets[name], nil
}

func (s fakeSource) Token(_ context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return "token of " + pod.Spec.ServiceAccountName + " for " + p.Audience, s.renew, nil
}

func newSource() fakeSource {
	return fakeSource{
		configMaps: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {3}}}},
		secrets:    map[string]*corev1.Secret{"sec": {Data: map[string][]byte{"pw": []byte("x"), "user": []byte("bob")}}},
		renew:      time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func yes() *bool {
	v := true
	return &v
}

func modeOf(m int32) *int32 { return &m }

func local(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

// contents lists a folder as a container sees it: path, mode, content.
func contents(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	var walk func(relative string)
	walk = func(relative string) {
		entries, err := os.ReadDir(filepath.Join(folder, relative))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			name := filepath.Join(relative, entry.Name())
			if strings.HasPrefix(name, "..") {
				continue
			}
			info, err := os.Stat(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			data, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, name+" "+info.Mode().String()+" "+string(data))
		}
	}
	walk("")
	return all
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		volume  corev1.VolumeSource
		want    []string
		problem string
	}{
		"configMap": {
			volume: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}},
			want:   []string{"a -rw-r--r-- 1", "b -rw-r--r-- 2", "c -rw-r--r-- \x03"},
		},
		"secret with items and modes": {
			volume: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: "sec", DefaultMode: modeOf(0o400),
				Items: []corev1.KeyToPath{{Key: "pw", Path: "deep/er/p"}, {Key: "user", Path: "u", Mode: modeOf(0o644)}},
			}},
			want: []string{"deep/er/p -r-------- x", "u -rw-r--r-- bob"},
		},
		"missing": {
			volume:  corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none"}},
			problem: `volume "v": secret "none" not found`,
		},
		"missing but optional": {
			volume: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("none"), Optional: yes()}},
		},
		"missing key": {
			volume: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "z", Path: "z"}},
			}},
			problem: `configmap "cm": it has no key "z"`,
		},
		"downward API": {
			volume: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}},
			}}},
			want: []string{"cpu -rw-r--r-- 4", `labels -rw-r--r-- app="web"`},
		},
		"projected": {
			volume: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "me"}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "a", Path: "ca.crt"}}}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
				}}},
			}}},
			want: []string{"ca.crt -rw-r--r-- 1", "namespace -rw-r--r-- default", "token -rw-r--r-- token of robot for me"},
		},
		"unsupported": {
			volume:  corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}},
			problem: "not supported here",
		},
		"path outside": {
			volume: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: local("cm"), Items: []corev1.KeyToPath{{Key: "a", Path: "../../etc/passwd"}},
			}},
			problem: "leaves the volume",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := Set{Folder: t.TempDir(), Source: newSource(), Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}
			_, err := set.Refresh(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: test.volume}))
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, contents(t, filepath.Join(set.Folder, "v"))); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
		})
	}
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Volumes: volumes, ServiceAccountName: "robot", Containers: []corev1.Container{{Name: "main"}}},
	}
}

func TestRefreshReplacesContent(t *testing.T) {
	t.Parallel()
	source := newSource()
	set := Set{Folder: t.TempDir(), Source: source}
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")},
	}})
	folder := filepath.Join(set.Folder, "v")
	refresh := func() string {
		if _, err := set.Refresh(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		version, err := os.Readlink(filepath.Join(folder, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	first := refresh()
	if second := refresh(); second != first {
		t.Error("the same content was written again")
	}
	source.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "new", "d": "4"}}
	if third := refresh(); third == first {
		t.Error("new content was not written")
	}
	if diff := cmp.Diff([]string{"a -rw-r--r-- new", "d -rw-r--r-- 4"}, contents(t, folder)); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(folder, first)); !os.IsNotExist(err) {
		t.Errorf("the old content is still there: %v", err)
	}
}

func TestRefreshTellsWhenTokensEnd(t *testing.T) {
	t.Parallel()
	source := newSource()
	token := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}}
	empty := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	pod := podWith(corev1.Volume{Name: "a", VolumeSource: empty}, corev1.Volume{Name: "b", VolumeSource: token}, corev1.Volume{Name: "c", VolumeSource: empty})
	renew, err := Set{Folder: t.TempDir(), Source: source}.Refresh(t.Context(), pod)
	if err != nil || !renew.Equal(source.renew) {
		t.Errorf("renew %s, %v; want %s", renew, err, source.renew)
	}
}

func TestHostPath(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		path    string
		kind    corev1.HostPathType
		problem string
	}{
		"any, missing":            {folder + "/new1", corev1.HostPathUnset, ""},
		"any, a file":             {file, corev1.HostPathUnset, ""},
		"folder":                  {folder, corev1.HostPathDirectory, ""},
		"folder, missing":         {folder + "/no", corev1.HostPathDirectory, "no such file"},
		"folder, a file":          {file, corev1.HostPathDirectory, "is not a Directory"},
		"folder or new":           {folder + "/new2", corev1.HostPathDirectoryOrCreate, ""},
		"file":                    {file, corev1.HostPathFile, ""},
		"file or new":             {folder + "/new3", corev1.HostPathFileOrCreate, ""},
		"file or new, a folder":   {folder, corev1.HostPathFileOrCreate, "is not a File"},
		"device":                  {"/dev/null", corev1.HostPathCharDev, ""},
		"device, a file":          {file, corev1.HostPathCharDev, "is not a CharDevice"},
		"socket, a file":          {file, corev1.HostPathSocket, "is not a Socket"},
		"block device, character": {"/dev/null", corev1.HostPathBlockDev, "is not a BlockDevice"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind},
			}})
			_, err := Set{Folder: t.TempDir(), Source: newSource()}.Refresh(t.Context(), pod)
			if (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
				t.Errorf("error %v, want %q", err, test.problem)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	set := Set{Folder: t.TempDir(), Source: newSource()}
	pod := podWith(
		corev1.Volume{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("cm")}}},
	)
	if _, err := set.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(set.Folder, "empty", "link")
	if err := os.Symlink("/etc", outside); err != nil {
		t.Fatal(err)
	}
	version, err := os.Readlink(filepath.Join(set.Folder, "cm", dataLink))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		mount    corev1.VolumeMount
		sub      string
		want     string
		readOnly bool
		problem  string
	}{
		"whole":               {mount: corev1.VolumeMount{Name: "empty"}, want: "empty"},
		"read-only":           {mount: corev1.VolumeMount{Name: "empty", ReadOnly: true}, want: "empty", readOnly: true},
		"from the API":        {mount: corev1.VolumeMount{Name: "cm"}, want: "cm", readOnly: true},
		"new sub-path":        {mount: corev1.VolumeMount{Name: "empty"}, sub: "x/y", want: "empty/x/y"},
		"sub-path of content": {mount: corev1.VolumeMount{Name: "cm"}, sub: "a", want: "cm/" + version + "/a", readOnly: true},
		"sub-path missing":    {mount: corev1.VolumeMount{Name: "cm"}, sub: "z", problem: "no such file"},
		"sub-path up":         {mount: corev1.VolumeMount{Name: "empty"}, sub: "../cm", problem: "must stay inside"},
		"sub-path out":        {mount: corev1.VolumeMount{Name: "empty"}, sub: "link/passwd", problem: "escapes"},
		"no such volume":      {mount: corev1.VolumeMount{Name: "other"}, problem: "no volume of that name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, readOnly, err := set.Resolve(pod, test.mount, test.sub)
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil || path != filepath.Join(set.Folder, test.want) || readOnly != test.readOnly {
				t.Errorf("got %s, %v, %v; want %s, %v", path, readOnly, err, test.want, test.readOnly)
			}
		})
	}
}
