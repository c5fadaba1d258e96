"""The client of the service, over HTTP.

It loads no torch, and nothing of the other packages of `services` but their errors. Importing this
package loads nothing; import its modules.
"""
