# Unpacks the software Vulkan driver of Debian 12's backports (Mesa 25) into a cache folder, and prints the path of its
# manifest for VK_DRIVER_FILES. It uses the libraries of the installed mesa-vulkan-drivers and libvulkan1.
set -euo pipefail
folder="${XDG_CACHE_HOME:-$HOME/.cache}/barlow/lavapipe"
if [ ! -f "$folder/lavapipe.json" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$folder" "$work/lists/partial" "$work/cache/archives/partial"
  # The mirror that this machine already uses.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm-backports main" > "$work/sources.list"
  options=(-q -o Acquire::Retries=5 -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >&2
  (cd "$work" && apt-get "${options[@]}" download -t bookworm-backports mesa-vulkan-drivers >&2)
  dpkg-deb --fsys-tarfile "$work"/mesa-vulkan-drivers_*.deb | tar -x -C "$work" --strip-components=4 --wildcards '*/libvulkan_lvp.so'
  mv "$work/libvulkan_lvp.so" "$folder/"
  printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s/libvulkan_lvp.so","api_version":"1.4.305"}}\n' "$folder" > "$work/lavapipe.json"
  mv "$work/lavapipe.json" "$folder/"
fi
echo "$folder/lavapipe.json"
