// Package nodesuite names the modules that nothing but Kubernetes' tests of a node are made of, so that
// go.sum has them.
package nodesuite

import _ "k8s.io/system-validators/validators"
