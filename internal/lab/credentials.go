package lab

import (
	"bytes"
	"crypto/rand"
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-lb/berth/internal/lab/network"
)

// user is one that the API server knows by a token. All are administrators: the
// lab tests what Pods may do, and these have ServiceAccounts.
type user struct {
	name, token string
	// host is where its kubeconfig is used.
	host string
}

// credentials are the lab's users, the administrator first.
type credentials []user

func newCredentials(plan network.Plan) credentials {
	all := credentials{{name: "admin", token: rand.Text(), host: network.ControlPlane}}
	for _, node := range plan.Nodes() {
		all = append(all, user{name: "system:node:" + node.Name, token: rand.Text(), host: node.Name})
	}
	return all
}

func (c credentials) admin() user { return c[0] }

// tokenFile is what kube-apiserver reads: token, name, uid, groups.
func (c credentials) tokenFile() []byte {
	var file bytes.Buffer
	for _, user := range c {
		fmt.Fprintf(&file, "%s,%s,%s,system:masters\n", user.token, user.name, user.name)
	}
	return file.Bytes()
}

// kubeconfig lets user talk to the API server at url.
func kubeconfig(lab, url string, authority []byte, user user) ([]byte, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[lab] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: authority}
	config.AuthInfos[user.name] = &clientcmdapi.AuthInfo{Token: user.token}
	config.Contexts[lab] = &clientcmdapi.Context{Cluster: lab, AuthInfo: user.name}
	config.CurrentContext = lab
	content, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of %s: %w", user.name, err)
	}
	return content, nil
}
